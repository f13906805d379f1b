#include "core/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/check.h"

namespace nibble {
namespace {

TEST(ThreadPool, RunsEveryTaskOnce) {
  for (const int num_threads : {1, 2, 3, 7}) {
    ThreadPool pool(num_threads);
    EXPECT_EQ(pool.num_threads(), num_threads);
    for (const std::int64_t num_tasks : {0, 1, 2, 5, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(num_tasks));
      std::atomic<bool> thread_in_range = true;
      pool.parallel_for(num_tasks, [&](std::int64_t task, int thread) {
        ++runs[static_cast<std::size_t>(task)];
        if (thread < 0 || thread >= num_threads) thread_in_range = false;
      });
      for (const auto& count : runs) EXPECT_EQ(count, 1);
      EXPECT_TRUE(thread_in_range);
    }
  }
}

// Thousands of small jobs in a row, as in a decode step: no wake-up may be lost.
TEST(ThreadPool, ManySmallJobs) {
  ThreadPool pool(4);
  std::vector<std::int64_t> squares(8);
  for (std::int64_t round = 0; round < 20'000; ++round) {
    pool.parallel_for(
        8, [&](std::int64_t task, int) { squares[static_cast<std::size_t>(task)] = task * round; });
    ASSERT_EQ(std::accumulate(squares.begin(), squares.end(), std::int64_t{0}), 28 * round);
  }
}

// Long enough pauses for the workers to park.
TEST(ThreadPool, WakesParkedWorkers) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> sum = 0;
    pool.parallel_for(100, [&](std::int64_t task, int) { sum += static_cast<int>(task); });
    EXPECT_EQ(sum, 4950);
  }
}

TEST(ThreadPool, RethrowsAndGoesOn) {
  for (const int num_threads : {1, 4}) {
    ThreadPool pool(num_threads);
    const auto job = [&](std::int64_t task, int) {
      if (task == 17) throw std::runtime_error("task 17");
    };
    EXPECT_THROW(pool.parallel_for(100, job), std::runtime_error);
    std::atomic<int> count = 0;
    pool.parallel_for(50, [&](std::int64_t, int) { ++count; });
    EXPECT_EQ(count, 50);
  }
}

TEST(ThreadPool, SeveralPoolsSideBySide) {
  ThreadPool a(2);
  ThreadPool b(3);
  std::atomic<int> count = 0;
  std::thread other([&] {
    for (int i = 0; i < 200; ++i) a.parallel_for(10, [&](std::int64_t, int) { ++count; });
  });
  for (int i = 0; i < 200; ++i) b.parallel_for(10, [&](std::int64_t, int) { ++count; });
  other.join();
  EXPECT_EQ(count, 4000);
}

TEST(ThreadPool, NeedsAThread) { EXPECT_THROW(ThreadPool(0), InternalError); }

TEST(ThreadPool, DefaultIsAtLeastOne) { EXPECT_GE(default_num_threads(), 1); }

}  // namespace
}  // namespace nibble
