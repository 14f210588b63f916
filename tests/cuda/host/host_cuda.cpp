// The threads of a block, on the host: fibers, or real threads with HOST_CUDA_THREADS.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#if defined(HOST_CUDA_THREADS)
#include <pthread.h>
#else
#include <ucontext.h>
#endif

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host_cuda {

int next_launch_error = 0, device_error = 0;
int64_t launches = 0;
unsigned latest_blocks = 0;
int multiprocessors = 7, resident = 5;
int capability = 9, driver = CUDART_VERSION;

// For tests in Python, through ctypes.
extern "C" __attribute__((visibility("default"))) void host_cuda_fail(int of_launch, int of_device) {
  next_launch_error = of_launch;
  device_error = of_device;
}
extern "C" __attribute__((visibility("default"))) void host_cuda_become(int of_capability, int of_driver) {
  capability = of_capability;
  driver = of_driver;
}
extern "C" __attribute__((visibility("default"))) int64_t host_cuda_launches() { return launches; }
extern "C" __attribute__((visibility("default"))) unsigned host_cuda_latest_blocks() { return latest_blocks; }

namespace {
int64_t slots[kMostThreads];
}  // namespace

void* exchange_slot(unsigned thread) { return &slots[thread]; }

#if defined(HOST_CUDA_THREADS)

namespace {

pthread_barrier_t block_barrier;
std::vector<pthread_barrier_t> warp_barriers;

}  // namespace

void wait_for_block() { pthread_barrier_wait(&block_barrier); }
void wait_for_warp() { pthread_barrier_wait(&warp_barriers[threadIdx.x / kWarp]); }

void run_grid(unsigned blocks, unsigned threads, const std::function<void()>& thread) {
  pthread_barrier_init(&block_barrier, nullptr, threads);
  warp_barriers.resize((threads + kWarp - 1) / kWarp);
  for (size_t warp = 0; warp < warp_barriers.size(); ++warp) {
    pthread_barrier_init(&warp_barriers[warp], nullptr,
                         std::min<unsigned>(kWarp, threads - unsigned(warp) * kWarp));
  }
  std::vector<std::thread> running;
  for (unsigned index = 0; index < threads; ++index) {
    running.emplace_back([=, &thread] {
      threadIdx.x = index;
      blockDim.x = threads;
      gridDim.x = blocks;
      for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
        thread();
        wait_for_block();  // the next block uses the same storage for what its threads share
      }
    });
  }
  for (std::thread& each : running) each.join();
}

#else

namespace {

// Room for the frames of a kernel under AddressSanitizer too, which at every switch clears its notes on all
// of it.
constexpr size_t kStackBytes = 64 * 1024;

struct Barrier {
  unsigned expected = 0, arrived = 0;
  uint64_t generation = 0;
};

// A fiber runs one thread after another until one of them waits at a barrier; then another fiber goes on with
// the threads that have not started. Kernels without barriers thus run on a single fiber.
struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  const Barrier* barrier = nullptr;  // where it waits
  uint64_t generation = 0;           // of the barrier, until it opens

  bool can_go_on() const { return barrier != nullptr && barrier->generation != generation; }
};

ucontext_t scheduler;
std::vector<std::unique_ptr<Fiber> > fibers;
Fiber* current;
Barrier block_barrier, warp_barriers[kMostThreads / kWarp];
const std::function<void()>* body;
unsigned started, finished;
bool progress;  // since the scheduler last looked: some thread ended, or some barrier opened

void wait_at(Barrier& barrier) {
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    progress = true;
    return;
  }
  const unsigned index = threadIdx.x;
  Fiber* self = current;
  self->barrier = &barrier;
  self->generation = barrier.generation;
  swapcontext(&self->context, &scheduler);
  self->barrier = nullptr;
  threadIdx.x = index;
}

void run_threads() {
  for (;;) {
    while (started < blockDim.x) {
      const unsigned turn = started++;
      // Odd blocks run in descending order: a missing barrier may hide in one order, not in both.
      threadIdx.x = blockIdx.x % 2 ? blockDim.x - 1 - turn : turn;
      (*body)();
      ++finished;
      progress = true;
    }
    swapcontext(&current->context, &scheduler);
  }
}

void resume(Fiber& fiber) {
  current = &fiber;
  swapcontext(&scheduler, &fiber.context);
}

Fiber& fiber_number(size_t index) {
  if (index == fibers.size()) {
    fibers.emplace_back(new Fiber);
    Fiber& fiber = *fibers.back();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    makecontext(&fiber.context, run_threads, 0);
  }
  return *fibers[index];
}

void run_block(unsigned threads) {
  block_barrier = {threads};
  for (unsigned first = 0; first < threads; first += kWarp) {
    warp_barriers[first / kWarp] = {std::min<unsigned>(kWarp, threads - first)};
  }
  started = finished = 0;
  for (size_t used = 0; started < threads;) resume(fiber_number(used++));
  while (finished < threads) {
    progress = false;
    for (const std::unique_ptr<Fiber>& fiber : fibers) {
      if (fiber->can_go_on()) resume(*fiber);
    }
    if (!progress) {
      fprintf(stderr, "host_cuda: a barrier was reached by some threads of block %u and not by others\n",
              blockIdx.x);
      abort();
    }
  }
}

}  // namespace

void wait_for_block() { wait_at(block_barrier); }
void wait_for_warp() { wait_at(warp_barriers[threadIdx.x / kWarp]); }

void run_grid(unsigned blocks, unsigned threads, const std::function<void()>& thread) {
  body = &thread;
  blockDim.x = threads;
  gridDim.x = blocks;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) run_block(threads);
}

#endif

}  // namespace host_cuda

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInsufficientDriver:
      return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    default:
      return "unknown error";
  }
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaError_t(host_cuda::device_error);
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = host_cuda::driver;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? host_cuda::multiprocessors : host_cuda::capability;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaError_t(host_cuda::device_error);
}

cudaError_t cudaSetDevice(int) { return cudaError_t(host_cuda::device_error); }
