#include "core/dispatch.h"

namespace marey {
namespace {

// A function, so that it exists before the first stub in any translation unit.
std::vector<const StubBase*>& registry() {
  static std::vector<const StubBase*> stubs;
  return stubs;
}

}  // namespace

StubBase::StubBase(const char* kernel) : kernel_(kernel) { registry().push_back(this); }

Isa StubBase::chosen(Isa isa) const {
  int at = static_cast<int>(isa);
  while (at > 0 && !has(static_cast<Isa>(at))) --at;
  return static_cast<Isa>(at);
}

std::vector<std::pair<std::string, Isa>> list_kernels() {
  std::vector<std::pair<std::string, Isa>> kernels;
  for (const StubBase* stub : registry()) kernels.emplace_back(stub->kernel(), stub->chosen());
  return kernels;
}

}  // namespace marey
