#pragma once
// The instructions of Hopper (sm_90a) that C++ has no words for, and their models for on_cpu.h:
// mbarriers, bulk tensor copies, warpgroup matrix products, register budgets. PTX ISA 8.0, sections
// "mbarrier", "cp.async.bulk.tensor" and "wgmma".
//
// Shared memory that the copy engine and the tensor cores read and write is in tiles of 64 items of
// two bytes, rows of 128 bytes, swizzled: the 16-byte chunk c of row r stands at chunk c ^ (r % 8).
// Tiles begin at multiples of 1024 bytes.
#include <cstdint>

#include "core/bfloat16.h"
#include "cuda/kernel.h"

#ifdef __CUDACC__
#include <cuda.h>
#else
#include <cstring>
#include <vector>
#endif

namespace marey::cuda {

// An accumulator of 64 rows and N columns: of thread t of the warpgroup, register 4 j + 2 h + i is
// at row 16 (t / 32) + (t % 32) / 4 + 8 h, column 8 j + 2 (t % 4) + i.
MAREY_HOST_DEVICE int accumulator_row(int thread, int index) {
  return 16 * (thread % 128 / 32) + thread % 32 / 4 + 8 * (index / 2 % 2);
}
MAREY_HOST_DEVICE int accumulator_column(int thread, int index) {
  return 8 * (index / 4) + 2 * (thread % 4) + index % 2;
}

// Where the byte `offset` of an unswizzled tile stands.
MAREY_HOST_DEVICE uint32_t swizzled(uint32_t offset) { return offset ^ ((offset >> 3) & 0x70U); }

// A descriptor of an operand in shared memory, for the swizzle of 128 bytes. Rows along the depth
// of the product (K-major): stride is from 8 rows to the next 8, and leading is not used. Rows
// across it (MN-major): stride is from 8 depths to the next 8, leading from 64 items to the
// next 64.
MAREY_HOST_DEVICE uint64_t descriptor(uint32_t address, uint32_t leading, uint32_t stride) {
  return static_cast<uint64_t>((address & 0x3FFFFU) >> 4) |
         static_cast<uint64_t>(leading >> 4) << 16 | static_cast<uint64_t>(stride >> 4) << 32 |
         uint64_t{1} << 62;
}

// Whether a device has these instructions.
inline bool is_hopper(const Queue& queue) {
#ifdef __CUDACC__
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, queue.device));
  return major == 9;
#else
  static_cast<void>(queue);
  return true;
#endif
}

// A tensor in memory that the copy engine reads tiles of, and zeros beyond its edges. Axis 0 is the
// fastest.
struct TensorShape {
  void* data;
  uint64_t extent[5];
  uint64_t stride[4];  // in bytes, of axes 1 to 4: multiples of 16
  uint32_t box[5];     // box[0]: 64 items
};

#ifdef __CUDACC__

using TensorMap = CUtensorMap;
// By the driver; sm90.cu.
TensorMap make_tensor_map(const TensorShape& shape);

using Barrier = uint64_t;

MAREY_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

MAREY_DEVICE void barrier_init(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}
// After the inits, before the block's barrier: the copy engine sees them too.
MAREY_DEVICE void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Arrives, and lets the phase last until so many bytes have come.
MAREY_DEVICE void barrier_expect(Barrier* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
MAREY_DEVICE void barrier_arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
// Until the phase of this parity is over; the first phase has parity 0, so that waiting for parity
// 1 of a new barrier returns at once.
MAREY_DEVICE void barrier_wait(Barrier* barrier, int parity) {
  uint32_t done = 0;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}\n"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (done == 0);
}

MAREY_DEVICE void prefetch(const TensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}
// Copies the box at these coordinates; its bytes count on the barrier. By one thread.
MAREY_DEVICE void copy_tile(void* shared, const TensorMap* map, int c0, int c1, int c2, int c3,
                            int c4, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, "
      "%4, %5, %6, %7}], [%2];" ::"r"(shared_address(shared)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}

// After this thread's ordinary writes to shared memory (and copies that it waited for), before the
// barrier behind which products read them.
MAREY_DEVICE void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// `x`, which all lanes of the warp have alike: the compiler takes it to be so from here on, and
// keeps in uniform registers what descriptors are made of.
MAREY_DEVICE int uniform(int x) { return __shfl_sync(0xFFFFFFFFU, x, 0); }

template <int kRegisters>
MAREY_DEVICE void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
MAREY_DEVICE void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Before the first product, and whenever registers that products take were written.
MAREY_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
MAREY_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most kGroups groups are not done.
template <int kGroups>
MAREY_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kGroups) : "memory");
}
// Ties registers to the place in the program: no read of them moves before it, and no write behind
// it. Sums and operands alike before the fence, so that they are there, and after the wait, so that
// nothing else is in their place until then.
template <int N>
MAREY_DEVICE void wgmma_hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int N>
MAREY_DEVICE void wgmma_hold(uint32_t (&a)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

// The registers of an accumulator, of 64 rows and 64, 128 or 256 columns, as an instruction's
// operands and as those of asm.
#define MAREY_NAMES_32                                                     \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define MAREY_NAMES_64                                                               \
  MAREY_NAMES_32                                                                     \
  ", "                                                                               \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MAREY_NAMES_128                                                                    \
  MAREY_NAMES_64                                                                           \
  ", "                                                                                     \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "       \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "       \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, " \
  "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, "   \
  "%125, %126, %127"
#define MAREY_SUMS_32(d)                                                                        \
  "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3]), "+f"((d)[4]), "+f"((d)[5]),           \
      "+f"((d)[6]), "+f"((d)[7]), "+f"((d)[8]), "+f"((d)[9]), "+f"((d)[10]), "+f"((d)[11]),     \
      "+f"((d)[12]), "+f"((d)[13]), "+f"((d)[14]), "+f"((d)[15]), "+f"((d)[16]), "+f"((d)[17]), \
      "+f"((d)[18]), "+f"((d)[19]), "+f"((d)[20]), "+f"((d)[21]), "+f"((d)[22]), "+f"((d)[23]), \
      "+f"((d)[24]), "+f"((d)[25]), "+f"((d)[26]), "+f"((d)[27]), "+f"((d)[28]), "+f"((d)[29]), \
      "+f"((d)[30]), "+f"((d)[31])
#define MAREY_SUMS_64(d) MAREY_SUMS_32(d), MAREY_SUMS_32((d) + 32)
#define MAREY_SUMS_128(d) MAREY_SUMS_64(d), MAREY_SUMS_64((d) + 64)

// D (64, N) = A B^T + (add ? D : 0), 16 items deep, bfloat16. Both from shared memory, K-major.
MAREY_DEVICE void wgmma_ss(float (&d)[32], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" MAREY_NAMES_32
      "}, %32, %33, p, 1, 1, 0, 0;\n"
      "}\n"
      : MAREY_SUMS_32(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
MAREY_DEVICE void wgmma_ss(float (&d)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" MAREY_NAMES_64
      "}, %64, %65, p, 1, 1, 0, 0;\n"
      "}\n"
      : MAREY_SUMS_64(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
// A from registers (as of an accumulator, packed), B (16, N) from shared memory, MN-major.
MAREY_DEVICE void wgmma_rs(float (&d)[32], const uint32_t* a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" MAREY_NAMES_32
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n"
      "}\n"
      : MAREY_SUMS_32(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
MAREY_DEVICE void wgmma_rs(float (&d)[64], const uint32_t* a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" MAREY_NAMES_64
      "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n"
      "}\n"
      : MAREY_SUMS_64(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
MAREY_DEVICE void wgmma_rs(float (&d)[128], const uint32_t* a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %133, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" MAREY_NAMES_128
      "}, {%128, %129, %130, %131}, %132, p, 1, 1, 1;\n"
      "}\n"
      : MAREY_SUMS_128(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}

#undef MAREY_NAMES_32
#undef MAREY_NAMES_64
#undef MAREY_NAMES_128
#undef MAREY_SUMS_32
#undef MAREY_SUMS_64
#undef MAREY_SUMS_128

MAREY_DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#else

using TensorMap = TensorShape;
inline TensorMap make_tensor_map(const TensorShape& shape) { return shape; }

struct Barrier {
  int32_t bytes;
  uint8_t pending, arrivals, phase, unused;
};
static_assert(sizeof(Barrier) == 8);

inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(static_cast<const unsigned char*>(p) - on_cpu::shared_bytes());
}
inline void finish_phase(Barrier* b) {
  if (b->pending != 0 || b->bytes != 0) return;
  b->phase ^= 1U;
  b->pending = b->arrivals;
}
inline void barrier_init(Barrier* b, int arrivals) {
  const auto count = static_cast<uint8_t>(arrivals);
  *b = {0, count, count, 0, 0};
}
inline void barrier_init_done() {}
inline void barrier_arrive(Barrier* b) {
  if (b->pending == 0) on_cpu::fail("an mbarrier has more arrivals than it was made for");
  --b->pending;
  finish_phase(b);
}
inline void barrier_expect(Barrier* b, int bytes) {
  b->bytes += bytes;
  barrier_arrive(b);
}
inline void barrier_wait(Barrier* b, int parity) {
  on_cpu::wait_until([=] { return b->phase != parity; });
}
inline void prefetch(const TensorMap*) {}

inline void copy_tile(void* shared, const TensorMap* map, int c0, int c1, int c2, int c3, int c4,
                      Barrier* barrier) {
  if (shared_address(shared) % 1024 != 0) on_cpu::fail("a tile that is not at 1024 bytes");
  const TensorShape m = *map;
  on_cpu::later([=] {
    const int64_t first[5] = {c0, c1, c2, c3, c4};
    const uint32_t base = shared_address(shared);
    uint32_t offset = 0;
    uint32_t at[5];
    for (at[4] = 0; at[4] < m.box[4]; ++at[4])
      for (at[3] = 0; at[3] < m.box[3]; ++at[3])
        for (at[2] = 0; at[2] < m.box[2]; ++at[2])
          for (at[1] = 0; at[1] < m.box[1]; ++at[1])
            for (at[0] = 0; at[0] < m.box[0]; ++at[0], offset += 2) {
              bool inside = true;
              const auto* item = static_cast<const unsigned char*>(m.data);
              for (int a = 0; a < 5; ++a) {
                const int64_t place = first[a] + at[a];
                inside = inside && place >= 0 && place < static_cast<int64_t>(m.extent[a]);
                item += place * static_cast<int64_t>(a == 0 ? 2 : m.stride[a - 1]);
              }
              unsigned char* to = on_cpu::shared_bytes() + swizzled(base + offset);
              if (inside) {
                std::memcpy(to, item, 2);
              } else {
                std::memset(to, 0, 2);
              }
            }
    barrier->bytes -= static_cast<int32_t>(offset);
    finish_phase(barrier);
  });
}

inline void fence_async_proxy() {}
inline int uniform(int x) {
  on_cpu::collective(32, &x, [](void* const* all) {
    for (int lane = 1; lane < 32; ++lane) {
      if (*static_cast<const int*>(all[lane]) != *static_cast<const int*>(all[0])) {
        on_cpu::fail("lanes of a warp that differ where they may not");
      }
    }
  });
  return x;
}
template <int kRegisters>
void fewer_registers() {}
template <int kRegisters>
void more_registers() {}

// The products of a warpgroup that were issued, and the groups that were committed.
struct Products {
  struct Product {
    struct Part {
      float* d;
      const uint32_t* a_registers;
    } part[128];
    int columns;
    uint64_t a, b;
    bool add;
  };
  std::vector<Product> open;
  std::vector<std::vector<Product> > groups;
};
inline Products& products_of(int warpgroup) { return on_cpu::pending<Products>(warpgroup); }
void run_product(const Products::Product& product);

struct Issue {
  float* d;
  const uint32_t* a_registers;
  int columns;
  uint64_t a, b;
  bool add;
  int warpgroup;
};
inline void issue_product(Issue issue) {
  issue.warpgroup = on_cpu::thread_number() / 128;
  on_cpu::collective(128, &issue, [](void* const* all) {
    const auto* first = static_cast<const Issue*>(all[0]);
    Products::Product product{{}, first->columns, first->a, first->b, first->add};
    for (int t = 0; t < 128; ++t) {
      const auto* mine = static_cast<const Issue*>(all[t]);
      product.part[t] = {mine->d, mine->a_registers};
    }
    products_of(first->warpgroup).open.push_back(product);
  });
}
inline void wgmma_fence() {
  on_cpu::collective(128, nullptr, [](void* const*) {});
}
inline void wgmma_commit() {
  int warpgroup = on_cpu::thread_number() / 128;
  on_cpu::collective(128, &warpgroup, [](void* const* all) {
    Products& p = products_of(*static_cast<const int*>(all[0]));
    p.groups.push_back(p.open);
    p.open.clear();
  });
}
template <int kGroups>
void wgmma_wait() {
  int warpgroup = on_cpu::thread_number() / 128;
  on_cpu::collective(128, &warpgroup, [](void* const* all) {
    Products& p = products_of(*static_cast<const int*>(all[0]));
    while (p.groups.size() > kGroups) {
      for (const Products::Product& product : p.groups.front()) run_product(product);
      p.groups.erase(p.groups.begin());
    }
  });
}
template <class T, int N>
void wgmma_hold(T (&)[N]) {}
template <int N>
void wgmma_ss(float (&d)[N], uint64_t a, uint64_t b, bool add) {
  issue_product({d, nullptr, 2 * N, a, b, add, 0});
}
template <int N>
void wgmma_rs(float (&d)[N], const uint32_t* a, uint64_t b, bool add) {
  issue_product({d, a, 2 * N, 0, b, add, 0});
}

inline float exp2_fast(float x) { return exp2f(x); }

#endif

}  // namespace marey::cuda
