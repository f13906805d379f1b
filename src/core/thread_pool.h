// A fixed team of threads for fork-join work inside one step.
//
// Goals: microsecond fork and join (workers spin briefly, then park, so that another process taking
// a core does not stall the team); no result depends on which thread ran which task, provided each
// task writes only its own outputs. Non-goals: nesting, priorities, work from several callers at once.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace nibble {

class ThreadPool {
 public:
  // The calling thread counts as one: num_threads - 1 workers are started. num_threads >= 1.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int num_threads() const noexcept;

  // Runs fn(task, thread) for every task in [0, num_tasks), tasks handed out in ascending order;
  // thread is in [0, num_threads()). Returns when all are done. The first exception thrown by a
  // task is rethrown here (the other tasks still run or are skipped).
  template <class Fn>
  void parallel_for(std::int64_t num_tasks, Fn&& fn) {
    using F = std::remove_reference_t<Fn>;
    run(
        num_tasks, [](void* f, std::int64_t task, int thread) { (*static_cast<F*>(f))(task, thread); },
        const_cast<void*>(static_cast<const void*>(&fn)));
  }

 private:
  using TaskFn = void (*)(void*, std::int64_t, int);
  void run(std::int64_t num_tasks, TaskFn fn, void* context);

  struct Team;
  std::unique_ptr<Team> team_;
};

// Number of threads worth starting here: the cores this process may run on (affinity, cgroup quota).
int default_num_threads();

}  // namespace nibble
