#include "core/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/check.h"

namespace nibble {
namespace {

// About 20 to 50 microseconds: longer than the gaps between the ops of a decode step, far shorter
// than a scheduler time slice.
constexpr int kSpins = 2000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

struct ThreadPool::Team {
  explicit Team(int n) : num_threads(n) {
    workers.reserve(static_cast<std::size_t>(n - 1));
    for (int i = 1; i < n; ++i) workers.emplace_back([this, i] { work(i); });
  }

  ~Team() {
    stopping.store(true, std::memory_order_relaxed);
    announce();
    for (std::thread& t : workers) t.join();
  }

  // Publishes a new generation of work and wakes parked workers.
  void announce() {
    generation.fetch_add(1, std::memory_order_seq_cst);
    if (num_parked.load(std::memory_order_seq_cst) > 0) {
      const std::lock_guard lock(mutex);
      wake.notify_all();
    }
  }

  void work(int thread) {
    std::uint64_t seen = 0;
    while (true) {
      wait_for_generation_after(seen);
      seen = generation.load(std::memory_order_acquire);
      if (stopping.load(std::memory_order_relaxed)) return;
      drain(thread);
      num_busy.fetch_sub(1, std::memory_order_release);
    }
  }

  void wait_for_generation_after(std::uint64_t seen) {
    for (int i = 0; i < kSpins; ++i) {
      if (generation.load(std::memory_order_acquire) != seen) return;
      relax();
    }
    std::unique_lock lock(mutex);
    num_parked.fetch_add(1, std::memory_order_seq_cst);
    wake.wait(lock, [&] { return generation.load(std::memory_order_seq_cst) != seen; });
    num_parked.fetch_sub(1, std::memory_order_seq_cst);
  }

  void drain(int thread) {
    while (true) {
      const std::int64_t task = next_task.fetch_add(1, std::memory_order_relaxed);
      if (task >= num_tasks) return;
      try {
        fn(context, task, thread);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        next_task.store(num_tasks, std::memory_order_relaxed);
      }
    }
  }

  const int num_threads;
  std::vector<std::thread> workers;
  std::atomic<std::uint64_t> generation{0};
  std::atomic<bool> stopping{false};
  std::atomic<int> num_parked{0};
  alignas(64) std::atomic<int> num_busy{0};
  alignas(64) std::atomic<std::int64_t> next_task{0};
  std::int64_t num_tasks = 0;
  TaskFn fn = nullptr;
  void* context = nullptr;
  std::mutex mutex;
  std::condition_variable wake;
  std::exception_ptr failure;
};

ThreadPool::ThreadPool(int num_threads) {
  NIB_CHECK(num_threads >= 1, "a thread pool needs a thread, got {}", num_threads);
  team_ = std::make_unique<Team>(num_threads);
}

ThreadPool::~ThreadPool() = default;

int ThreadPool::num_threads() const noexcept { return team_->num_threads; }

void ThreadPool::run(std::int64_t num_tasks, TaskFn fn, void* context) {
  if (num_tasks <= 0) return;
  Team& team = *team_;
  if (num_tasks == 1 || team.num_threads == 1) {
    for (std::int64_t task = 0; task < num_tasks; ++task) fn(context, task, 0);
    return;
  }
  team.num_tasks = num_tasks;
  team.fn = fn;
  team.context = context;
  team.failure = nullptr;
  team.next_task.store(0, std::memory_order_relaxed);
  team.num_busy.store(team.num_threads - 1, std::memory_order_relaxed);
  team.announce();
  team.drain(0);
  // Workers still run their last task: spin, then let other processes have the core.
  for (int i = 0; team.num_busy.load(std::memory_order_acquire) != 0; ++i) {
    if (i < kSpins) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
  if (team.failure) std::rethrow_exception(std::exchange(team.failure, nullptr));
}

int default_num_threads() {
  cpu_set_t set;
  int n = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) n = CPU_COUNT(&set);
  // cgroup v2: "max 100000" or "<quota> <period>" in microseconds.
  std::ifstream in("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (in >> quota >> period && quota != "max" && period > 0) {
    try {
      n = std::min(n, std::max(1, static_cast<int>(std::stod(quota) / period + 0.5)));
    } catch (const std::exception&) {
      // An unreadable quota is no quota.
    }
  }
  return std::max(1, n);
}

}  // namespace nibble
