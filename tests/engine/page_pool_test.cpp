#include "engine/page_pool.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/check.h"

namespace nibble::engine {
namespace {

TEST(PagePool, GrowsATableToTheTokensAskedFor) {
  PagePool pool(4, 8);
  std::vector<PageId> table;
  EXPECT_TRUE(pool.grow(table, 8));
  EXPECT_EQ(table.size(), 1U);
  EXPECT_TRUE(pool.grow(table, 9));
  EXPECT_EQ(table.size(), 2U);
  EXPECT_TRUE(pool.grow(table, 3)) << "a table never shrinks";
  EXPECT_EQ(table.size(), 2U);
  EXPECT_EQ(pool.num_used(), 2);
  EXPECT_NE(table[0], table[1]);
}

TEST(PagePool, RefusesWithoutChangingAnything) {
  PagePool pool(3, 2);
  std::vector<PageId> a;
  std::vector<PageId> b;
  ASSERT_TRUE(pool.grow(a, 4));
  EXPECT_FALSE(pool.grow(b, 4));
  EXPECT_TRUE(b.empty());
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_TRUE(pool.check(std::vector<const std::vector<PageId>*>{&a, &b}).ok());
}

TEST(PagePool, GivesEveryPageOutAndTakesItBack) {
  PagePool pool(5, 1);
  std::vector<PageId> table;
  ASSERT_TRUE(pool.grow(table, 5));
  std::vector<PageId> sorted = table;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, (std::vector<PageId>{0, 1, 2, 3, 4}));
  pool.release(table);
  EXPECT_TRUE(table.empty());
  EXPECT_EQ(pool.num_free(), 5);
}

TEST(PagePool, RejectsForeignAndDoubleReleases) {
  PagePool pool(2, 1);
  std::vector<PageId> table;
  ASSERT_TRUE(pool.grow(table, 1));
  std::vector<PageId> copy = table;
  pool.release(table);
  EXPECT_THROW(pool.release(copy), InternalError);
  std::vector<PageId> foreign{7};
  EXPECT_THROW(pool.release(foreign), InternalError);
}

TEST(PagePool, CheckFindsLostSharedAndForeignPages) {
  PagePool pool(3, 1);
  std::vector<PageId> table;
  ASSERT_TRUE(pool.grow(table, 2));
  const std::vector<PageId> shared{table[0]};
  const std::vector<PageId> foreign{9};
  const auto check = [&](std::vector<const std::vector<PageId>*> tables) { return pool.check(tables).ok(); };
  EXPECT_TRUE(check({&table}));
  EXPECT_FALSE(check({}));
  EXPECT_FALSE(check({&table, &shared}));
  EXPECT_FALSE(check({&table, &foreign}));
}

}  // namespace
}  // namespace nibble::engine
