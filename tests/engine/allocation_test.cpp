// Fails the n-th allocation, for every n: each is an error of the request it hit, and the engine works on.
#include <gmock/gmock.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "core/out_of_memory.h"
#include "tests/engine/fixture.h"

namespace {

// Allocations left until one fails; negative = never.
std::atomic<long> allocations_left{-1};

void* allocate(std::size_t bytes) {
  if (allocations_left.load(std::memory_order_relaxed) >= 0 && allocations_left.fetch_sub(1) == 0) {
    throw std::bad_alloc();
  }
  void* p = std::malloc(bytes == 0 ? 1 : bytes);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

void* allocate_nothrow(std::size_t bytes) noexcept {
  try {
    return allocate(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
// A sanitizer's library has its own nothrow forms, which would not match our operator delete.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return allocate_nothrow(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return allocate_nothrow(bytes); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }

namespace nibble::engine {
namespace {

// Runs fn with the n-th allocation failing; whether there were that many.
template <class Fn>
bool fail_nth_allocation(long n, Fn&& fn) {
  allocations_left = n;
  fn();
  const bool failed = allocations_left.exchange(-1) < 0;
  return failed;
}

using AllocationTest = testing::EngineTest;

TEST_F(AllocationTest, CreatingAnEngine) {
  int num_failures = 0;
  for (long n = 0;; ++n) {
    ASSERT_LT(n, 10000);
    const EngineConfig config{
        .runner = {.max_num_batched_tokens = 8, .max_num_seqs = 2, .max_model_len = 32, .page_size = 4},
        .max_num_seqs = 2,
        .num_pages = 16};
    auto made = Result<std::unique_ptr<Engine>>(Error{});
    const bool failed = fail_nth_allocation(n, [&] { made = Engine::create(model_, backend_, config); });
    if (!failed) {
      EXPECT_TRUE(made.ok());
      break;
    }
    if (made.ok()) continue;  // an algorithm of the standard library that does without its buffer
    ++num_failures;
    EXPECT_EQ(made.error().code, ErrorCode::out_of_memory) << "allocation " << n;
  }
  EXPECT_GT(num_failures, 10);
}

TEST_F(AllocationTest, AddingAndRunningRequests) {
  make_engine(
      {.max_num_seqs = 2, .max_num_batched_tokens = 8, .max_model_len = 32, .page_size = 2, .num_pages = 18});
  const std::vector<std::vector<TokenId>> prompts{{1, 2, 3, 4, 5, 6, 7}, {8}, {9, 10}};
  int num_refused = 0;
  int num_failed = 0;
  for (long n = 0;; ++n) {
    ASSERT_LT(n, 100000);
    std::vector<EngineEvent> ends;
    const SamplingParams sampling{.max_tokens = 12, .ignore_eos = true};
    std::vector<Result<RequestId>> ids(prompts.size(), Result<RequestId>(Error{}));
    ends.reserve(100);
    const bool failed = fail_nth_allocation(n, [&] {
      for (std::size_t i = 0; i < prompts.size(); ++i) ids[i] = engine_->add(prompts[i], sampling);
      while (engine_->has_work()) {
        for (const EngineEvent& event : engine_->step()) {
          if (event.finish != FinishReason::none) {
            ends.push_back({.request = event.request, .finish = event.finish});
            ends.back().error.code = event.error.code;
          }
        }
      }
    });
    std::size_t num_accepted = 0;
    for (const auto& id : ids) {
      num_accepted += id.ok() ? 1 : 0;
      if (id.ok()) continue;
      ++num_refused;
      EXPECT_EQ(id.error().code, ErrorCode::out_of_memory);
    }
    ASSERT_EQ(ends.size(), num_accepted) << "allocation " << n;
    for (const EngineEvent& end : ends) {
      if (end.finish == FinishReason::length) continue;
      ++num_failed;
      EXPECT_EQ(end.finish, FinishReason::error);
      EXPECT_EQ(end.error.code, ErrorCode::out_of_memory);
    }
    const Status status = engine_->check();
    ASSERT_TRUE(status.ok()) << "allocation " << n << ": " << status.error().message;
    ASSERT_EQ(engine_->stats().pages_used, 0) << "allocation " << n;
    if (!failed) break;
  }
  EXPECT_GT(num_refused, 3);
  EXPECT_GT(num_failed, 100);
  outcomes_.clear();
  const RequestId id = add_greedy(prompts[0], 12);
  run_all();
  EXPECT_EQ(outcomes_[id].tokens, model_.greedy_reply(prompts[0], 12));
}

// Memory of a device that is really the host's, some allocation of which fails.
class FailingSpace final : public MemorySpace {
 public:
  long left = -1;  // until one fails; negative = never

  [[nodiscard]] bool is_host() const noexcept override { return false; }
  Buffer allocate(std::size_t bytes) override { return take(bytes); }
  Buffer allocate_staging(std::size_t bytes) override { return take(bytes); }
  void upload(std::byte* dst, std::span<const std::byte> src) override { host_space().upload(dst, src); }
  void download(std::span<std::byte> dst, const std::byte* src) override { host_space().download(dst, src); }

 private:
  Buffer take(std::size_t bytes) {
    if (left >= 0 && left-- == 0) throw OutOfMemory("no memory of the device for this");
    return Buffer(bytes);
  }
};

class DeviceExec final : public kernels::Exec {
 public:
  DeviceExec() : Exec(1) {}
  MemorySpace& memory() noexcept override { return space; }
  FailingSpace space;
};

TEST_F(AllocationTest, MemoryOfADevice) {
  DeviceExec exec;
  const EngineConfig config{
      .runner = {.max_num_batched_tokens = 8, .max_num_seqs = 2, .max_model_len = 32, .page_size = 4},
      .max_num_seqs = 2,
      .num_pages = 16};
  const std::vector<TokenId> prompt{1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  const std::vector<TokenId> reply = model_.greedy_reply(prompt, 8);
  const SamplingParams sampling{.max_tokens = 8, .ignore_eos = true};
  SamplingParams penalized = sampling;
  penalized.presence_penalty = 0.5F;
  int num_created = 0;
  int num_failures = 0;
  for (long n = 0;; ++n) {
    ASSERT_LT(n, 1000);
    exec.space.left = n;
    auto made = Engine::create(model_, {.table = table_, .exec = exec}, config);
    if (!made.ok()) {
      EXPECT_EQ(made.error().code, ErrorCode::out_of_memory);
      EXPECT_THAT(made.error().message, ::testing::HasSubstr("no memory of the device for this"));
      ++num_failures;
      continue;
    }
    ++num_created;
    engine_ = std::move(*made);
    const RequestId id = add(prompt, sampling);
    add(prompt, penalized);
    run_all();
    const bool failed = exec.space.left < 0;
    if (failed) {
      ++num_failures;
      int num_errors = 0;
      for (const auto& [request, outcome] : outcomes_) {
        if (outcome.finish != FinishReason::error) continue;
        ++num_errors;
        EXPECT_EQ(outcome.error.code, ErrorCode::out_of_memory);
        EXPECT_THAT(outcome.error.message, ::testing::HasSubstr("no memory of the device for this"));
      }
      EXPECT_GT(num_errors, 0) << "allocation " << n;
      exec.space.left = -1;
      outcomes_.clear();
      const RequestId again = add(prompt, sampling);
      run_all();
      EXPECT_EQ(outcomes_[again].tokens, reply) << "after allocation " << n;
    } else {
      EXPECT_EQ(outcomes_[id].tokens, reply);
    }
    outcomes_.clear();
    engine_.reset();
    if (!failed) break;
  }
  EXPECT_GT(num_created, 3);
  EXPECT_GT(num_failures, 8);
}

TEST_F(AllocationTest, AStepOfTheEngineItselfAllocatesNothing) {
  make_engine(
      {.max_num_seqs = 2, .max_num_batched_tokens = 8, .max_model_len = 32, .page_size = 2, .num_pages = 18});
  model_.silent = true;
  add_greedy({1, 2, 3, 4, 5, 6, 7, 8, 9}, 20);
  add_greedy({3}, 20);
  constexpr long kMany = 1'000'000;
  allocations_left = kMany;
  while (engine_->has_work()) engine_->step();
  EXPECT_EQ(allocations_left.exchange(-1), kMany);
  outcomes_.clear();
}

}  // namespace
}  // namespace nibble::engine
