// Kernels with a fault each, to see that on_cpu.h finds it.
#include "cuda/faults_on_cpu.h"

#include <cmath>
#include <stdexcept>

#include "cuda/async_copy.h"
#include "cuda/sm90.h"

namespace marey::cuda {
namespace {

constexpr int kThreads = 128;

// Reads what a neighbour writes, without a barrier between.
void race(float* out) {
  float* shared = shared_memory<float>();
  const int thread = static_cast<int>(threadIdx.x);
  shared[thread] = static_cast<float>(thread);
  out[thread] = shared[(thread + 1) % kThreads];
}

// Half of the threads wait for the others, which are gone.
void deadlock(float*) {
  if (threadIdx.x < kThreads / 2) sync_block();
}

// Half of a grid's blocks wait for the others, which are gone.
void grid_deadlock(unsigned* counter) {
  if (blockIdx.x % 2 == 0) sync_grid(counter, gridDim.x);
}

// Every block reads what the next one wrote.
void grid_barrier(float* out, float* between, unsigned* counter) {
  if (threadIdx.x == 0) between[blockIdx.x] = static_cast<float>(blockIdx.x);
  sync_grid(counter, gridDim.x);
  if (threadIdx.x == 0) out[blockIdx.x] = between[(blockIdx.x + 1) % gridDim.x];
}

// Every block copies a number of its own, and reads it before it has waited for that.
void early_read(float* out, const float* source, unsigned* counter) {
  float* shared = shared_memory<float>();
  if (threadIdx.x == 0) copy_async(shared, source + 4 * blockIdx.x, true);
  copy_commit();
  sync_grid(counter, gridDim.x);
  copy_wait<1>();
  if (threadIdx.x == 0) out[blockIdx.x] = shared[0];
}

void write_behind(float*) {
  if (threadIdx.x == 0) shared_memory<float>()[kThreads] = 0.0F;
}

void misaligned(float* out) {
  if (threadIdx.x == 0) {
    store_once(reinterpret_cast<Pack<float, 4>*>(out + 1), Pack<float, 4>{});
  }
}

struct Tile {
  alignas(1024) bfloat16 items[64 * 64];
  Barrier full;
};

void load(const TensorShape& map, Tile& tile) {
  if (threadIdx.x == 0) {
    barrier_init(&tile.full, 1);
    barrier_expect(&tile.full, sizeof tile.items);
    copy_tile(tile.items, &map, 0, 0, 0, 0, 0, &tile.full);
  }
  sync_block();
}

// Reads a tile that is waited for with the parity that a new barrier passes at once.
void wrong_parity(float* out, TensorShape map) {
  Tile& tile = *shared_memory<Tile>();
  load(map, tile);
  barrier_wait(&tile.full, 1);
  out[threadIdx.x] = widen(tile.items[0]);
}

// Hands a tile back, which another thread overwrites, before the product that reads it is done.
void early_release(float* out, TensorShape map) {
  Tile& tile = *shared_memory<Tile>();
  load(map, tile);
  barrier_wait(&tile.full, 0);
  float sums[64] = {};
  wgmma_fence();
  wgmma_ss(sums, descriptor(shared_address(tile.items), 16, 1024),
           descriptor(shared_address(tile.items), 16, 1024), false);
  wgmma_commit();
  sync_block();
  if (threadIdx.x == 0) tile.items[0] = narrow(1000.0F);
  sync_block();
  wgmma_wait<0>();
  out[threadIdx.x] = sums[0];
}

}  // namespace

std::vector<float> run_fault(const std::string& fault) {
  std::vector<float> out(kThreads + 8, -1.0F);
  std::vector<bfloat16> source(64 * 64, narrow(1.0F));
  const TensorShape map{source.data(), {64, 64, 1, 1, 1}, {128, 128, 128, 128}, {64, 64, 1, 1, 1}};
  const Grid plain{1, kThreads, kThreads * sizeof(float)};
  const Grid tiled{1, kThreads, sizeof(Tile) + 64 * 128};
  if (fault == "race") {
    launch({}, plain, &race, out.data());
  } else if (fault == "deadlock") {
    launch({}, plain, &deadlock, out.data());
  } else if (fault == "grid deadlock" || fault == "grid barrier" || fault == "early read") {
    const Grid grid{4, kThreads, 16};
    unsigned counter = 0;
    std::vector<Pack<float, 4>> between(4, {-1.0F, -1.0F, -1.0F, -1.0F});
    float* numbers = between[0].v;
    bool ran = false;
    if (fault == "grid deadlock") {
      ran = launch_together({}, grid, &grid_deadlock, &counter);
    } else if (fault == "grid barrier") {
      ran = launch_together({}, grid, &grid_barrier, out.data(), numbers, &counter);
    } else {
      ran = launch_together({}, grid, &early_read, out.data(), numbers, &counter);
    }
    if (!ran) throw std::runtime_error("on_cpu: the grid is too large to run at once");
  } else if (fault == "write behind") {
    launch({}, plain, &write_behind, out.data());
  } else if (fault == "misaligned") {
    launch({}, plain, &misaligned, out.data());
  } else if (fault == "wrong parity") {
    launch({}, tiled, &wrong_parity, out.data(), map);
  } else if (fault == "early release") {
    launch({}, tiled, &early_release, out.data(), map);
  } else {
    throw std::invalid_argument("run_fault: no such fault: " + fault);
  }
  return {out.begin(), out.begin() + kThreads};
}

}  // namespace marey::cuda
