#pragma once
// Copies from memory to shared memory that a thread does not wait for (sm_80 and later). PTX ISA
// 7.0, section "cp.async".
#include <cstdint>

#include "cuda/kernel.h"

#ifndef __CUDACC__
#include <cstring>
#include <vector>
#endif

namespace marey::cuda {

#ifdef __CUDACC__

// 16 aligned bytes, or zeros if not `inside`; then `from` may be any address.
MAREY_DEVICE void copy_async(void* to, const void* from, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(inside ? 16 : 0)
               : "memory");
}
// What this thread asked for since the last call is one group.
MAREY_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most kGroups groups of this thread are not done.
template <int kGroups>
MAREY_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

#else

// As late as the rules allow: when they are waited for.
struct Copies {
  struct Copy {
    void* to;
    const void* from;
  };
  std::vector<Copy> open;
  std::vector<std::vector<Copy> > groups;
};
inline Copies& copies_of_thread() { return on_cpu::pending<Copies>(on_cpu::thread_number()); }
inline void copy_async(void* to, const void* from, bool inside) {
  on_cpu::check_aligned(to, 16);
  if (inside) on_cpu::check_aligned(from, 16);
  copies_of_thread().open.push_back({to, inside ? from : nullptr});
}
inline void copy_commit() {
  Copies& copies = copies_of_thread();
  copies.groups.push_back(copies.open);
  copies.open.clear();
}
template <int kGroups>
void copy_wait() {
  Copies& copies = copies_of_thread();
  while (copies.groups.size() > kGroups) {
    for (const Copies::Copy& copy : copies.groups.front()) {
      if (copy.from == nullptr) {
        std::memset(copy.to, 0, 16);
      } else {
        std::memcpy(copy.to, copy.from, 16);
      }
    }
    copies.groups.erase(copies.groups.begin());
  }
}

#endif

}  // namespace marey::cuda
