// Buffer, Arena and TensorView.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

#include "core/arena.h"
#include "core/buffer.h"
#include "core/tensor.h"

namespace nibble {
namespace {

bool is_aligned(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 64 == 0; }

TEST(Buffer, IsZeroAlignedAndOfItsSize) {
  for (const std::size_t bytes :
       {std::size_t{1}, std::size_t{63}, std::size_t{4096}, (std::size_t{2} << 20) - 1, std::size_t{2} << 20,
        (std::size_t{4} << 20) + 7}) {
    const Buffer buffer(bytes);
    EXPECT_EQ(buffer.size(), bytes);
    EXPECT_EQ(buffer.bytes().size(), bytes);
    EXPECT_FALSE(buffer.empty());
    EXPECT_TRUE(is_aligned(buffer.data())) << bytes;
    EXPECT_TRUE(std::ranges::all_of(buffer.bytes(), [](std::byte b) { return b == std::byte{0}; })) << bytes;
    buffer.bytes().back() = std::byte{1};
  }
}

TEST(BufferSlab, SlicesAreZeroAlignedApartAndOutliveIt) {
  std::vector<Buffer> slices;
  {
    BufferSlab slab(BufferSlab::share(100) + BufferSlab::share(64) + BufferSlab::share(std::size_t{3} << 20));
    for (const std::size_t bytes :
         {std::size_t{100}, std::size_t{64}, std::size_t{3} << 20, std::size_t{5}}) {
      slices.push_back(slab.take(bytes));  // the third is large, for the last there is no room left
    }
  }
  for (std::size_t i = 0; i < slices.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(slices[i].data()) % 64, 0U);
    EXPECT_TRUE(std::ranges::all_of(slices[i].bytes(), [](std::byte b) { return b == std::byte{0}; }));
    std::ranges::fill(slices[i].bytes(), static_cast<std::byte>(i + 1));
  }
  Buffer moved = std::move(slices.front());
  slices.front() = Buffer();
  for (std::size_t i = 1; i < slices.size(); ++i) {
    EXPECT_TRUE(std::ranges::all_of(slices[i].bytes(),
                                    [&](std::byte b) { return b == static_cast<std::byte>(i + 1); }));
  }
  EXPECT_EQ(moved.size(), 100U);
  EXPECT_EQ(moved.bytes().back(), std::byte{1});
  EXPECT_EQ(BufferSlab::share(std::size_t{2} << 20), 0U);
}

TEST(Buffer, EmptyOwnsNothing) {
  const Buffer a;
  const Buffer b(0);
  EXPECT_TRUE(a.empty() && b.empty());
  EXPECT_EQ(b.data(), nullptr);
}

TEST(Buffer, Moves) {
  Buffer a(100);
  a.data()[3] = std::byte{42};
  std::byte* data = a.data();
  Buffer b = std::move(a);
  EXPECT_EQ(b.data(), data);
  Buffer c(std::size_t{3} << 20);
  c = std::move(b);
  EXPECT_EQ(c.data(), data);
  EXPECT_EQ(c.size(), 100U);
  EXPECT_EQ(c.data()[3], std::byte{42});
}

TEST(Buffer, RefusesTheImpossible) {
  EXPECT_THROW(Buffer{std::size_t{1} << 60}, std::bad_alloc);
  EXPECT_THROW(Buffer{std::numeric_limits<std::size_t>::max()}, std::bad_alloc);
}

TEST(Arena, CountsWhatTheSameCodeNeeds) {
  const auto use = [](Arena& arena) {
    (void)arena.allocate(1);
    {
      const ArenaScope scope(arena);
      (void)arena.tensor(DType::f32, {10, 10});
      (void)arena.tensor(DType::bf16, {3, 5});
    }
    (void)arena.allocate(100);
  };
  Arena counting;
  use(counting);
  EXPECT_EQ(counting.peak(), 64U + 448U + 64U);  // 400 and 30 bytes, rounded up to 64
  EXPECT_EQ(counting.used(), 64U + 128U);
  Arena real(counting.peak());
  use(real);
  EXPECT_EQ(real.peak(), counting.peak());
  EXPECT_EQ(real.used(), counting.used());
  EXPECT_THROW((void)real.allocate(real.capacity()), InternalError);
}

TEST(Arena, PiecesAreAlignedAndApart) {
  Arena arena(1024);
  std::byte* a = arena.allocate(10);
  std::byte* b = arena.allocate(64);
  std::byte* c = arena.allocate(1);
  EXPECT_TRUE(is_aligned(a) && is_aligned(b) && is_aligned(c));
  EXPECT_EQ(b - a, 64);
  EXPECT_EQ(c - b, 64);
  arena.reset();
  EXPECT_EQ(arena.allocate(10), a);
}

TEST(TensorView, RowsAndColumnsKeepTheStrides) {
  float data[24];
  for (int i = 0; i < 24; ++i) data[i] = static_cast<float>(i);
  const TensorView t = make_view(data, DType::f32, {2, 3, 4});
  EXPECT_EQ(t.num_elements(), 24);
  EXPECT_EQ(t.stride[0], 12);
  EXPECT_EQ(t.stride[1], 4);
  EXPECT_EQ(t.stride[2], 1);
  const TensorView row = t.row(1);
  EXPECT_EQ(row.rank, 2);
  EXPECT_EQ(row.dim(0), 3);
  EXPECT_EQ(row.f32()[0], 12.0F);
  const TensorView columns = t.columns(1, 3);
  EXPECT_EQ(columns.dim(2), 2);
  EXPECT_EQ(columns.stride[1], 4);
  EXPECT_EQ(columns.f32()[0], 1.0F);
  const TensorView none = t.rows(2, 2);
  EXPECT_EQ(none.num_elements(), 0);
  EXPECT_THROW(make_view(data, DType::f32, {1, 1, 1, 1, 1}), InternalError);
}

}  // namespace
}  // namespace nibble
