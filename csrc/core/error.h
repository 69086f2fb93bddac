#pragma once
// The two errors that the library throws for bad input. The message names the function, the
// argument, what was expected and what was found.
#include <stdexcept>
#include <string>
#include <string_view>

namespace marey {

inline std::string describe(std::string_view function, std::string_view argument,
                            std::string_view expected, std::string_view found) {
  std::string text = "[";
  text.append(function).append("] ").append(argument).append(": expected ").append(expected);
  if (!found.empty()) text.append("; found ").append(found);
  return text;
}

// Becomes Python's ValueError.
class ValueError : public std::invalid_argument {
 public:
  ValueError(std::string_view function, std::string_view argument, std::string_view expected,
             std::string_view found)
      : std::invalid_argument(describe(function, argument, expected, found)) {}
};

// Becomes Python's TypeError.
class TypeError : public std::runtime_error {
 public:
  TypeError(std::string_view function, std::string_view argument, std::string_view expected,
            std::string_view found)
      : std::runtime_error(describe(function, argument, expected, found)) {}
};

}  // namespace marey
