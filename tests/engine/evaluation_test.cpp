// Divergence of two models: the arithmetic, the file of saved references, and both on a real model.
#include "nibble/evaluation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>

#include "engine/kld.h"
#include "engine/reference_logits.h"
#include "tests/support/paths.h"
#include "tests/support/random.h"

namespace nibble::engine {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::Random;

// The definition, with every probability written out.
double slow_divergence(std::span<const float> p, std::span<const float> q) {
  const auto probabilities = [](std::span<const float> row) {
    const long double max = *std::max_element(row.begin(), row.end());
    std::vector<long double> result;
    long double sum = 0;
    for (const float x : row) sum += result.emplace_back(std::exp(x - max));
    for (long double& x : result) x /= sum;
    return result;
  };
  const auto a = probabilities(p);
  const auto b = probabilities(q);
  long double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] > 0) sum += a[i] * std::log(a[i] / b[i]);
  }
  return static_cast<double>(sum);
}

TEST(KlDivergence, IsTheSumOfItsDefinition) {
  Random random(1);
  for (const std::int64_t size : {1, 2, 7, 1000}) {
    for (const float scale : {0.01F, 1.0F, 20.0F}) {
      const auto p = random.floats(size, -scale, scale);
      const auto q = random.floats(size, -scale, scale);
      const double want = slow_divergence(p, q);
      EXPECT_NEAR(kl_divergence(p, q), want, 1e-12 + 1e-11 * want) << size << ", " << scale;
      EXPECT_EQ(kl_divergence(p, p), 0);
    }
  }
  const std::vector<float> even{0, 0};
  const std::vector<float> odds{0, std::log(3.0F)};
  EXPECT_NEAR(kl_divergence(even, odds), 0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3.0), 1e-7);
}

TEST(KlDivergence, IgnoresConstantsAndKnowsNoOverflow) {
  Random random(2);
  const auto p = random.floats(100, -5, 5);
  auto shifted = p;
  for (float& x : shifted) x += 64;
  EXPECT_NEAR(kl_divergence(p, shifted), 0, 1e-9);
  const std::vector<float> first{3e38F, -3e38F};
  const std::vector<float> second{-3e38F, 3e38F};
  EXPECT_NEAR(kl_divergence(first, second) / 6e38, 1, 1e-6);
  EXPECT_EQ(kl_divergence(first, first), 0);
}

TEST(Quantile, InterpolatesLinearly) {
  const std::vector<double> values{1, 2, 3, 10};
  EXPECT_DOUBLE_EQ(quantile(values, 0), 1);
  EXPECT_DOUBLE_EQ(quantile(values, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(quantile(values, 0.99), 3 + 7 * 0.97);
  EXPECT_DOUBLE_EQ(quantile(values, 1), 10);
  EXPECT_DOUBLE_EQ(quantile(std::span(values).first(1), 0.99), 1);
}

TEST(DivergenceSum, AddsUp) {
  const std::vector<float> p{2, 1, 0};
  const std::vector<float> q{1, 2, 0};
  DivergenceSum sum;
  sum.add(0, {.logits = p, .nll = 1.5, .top1 = 0}, p);
  sum.add(1, {.logits = p, .nll = 2.5, .top1 = 0}, q);
  const Divergence got = std::move(sum).finish();
  const double second = slow_divergence(p, q);
  EXPECT_EQ(got.tokens, 2);
  EXPECT_NEAR(got.mean, second / 2, 1e-12);
  EXPECT_NEAR(got.median, second / 2, 1e-12);
  EXPECT_NEAR(got.p99, 0.99 * second, 1e-12);
  EXPECT_NEAR(got.max, second, 1e-12);
  EXPECT_DOUBLE_EQ(got.top1_agreement, 0.5);
  EXPECT_DOUBLE_EQ(got.reference_nll, 4);
  EXPECT_DOUBLE_EQ(got.reference_perplexity, std::exp(2.0));
  const double nll = 2 * std::log(std::exp(2.0) + std::exp(1.0) + 1) - 2 - 2;
  EXPECT_NEAR(got.nll, nll, 1e-12);
  EXPECT_NEAR(got.perplexity, std::exp(nll / 2), 1e-12);
}

class ReferenceFile : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / ("nibble-reference-test-" + std::to_string(::getpid()) + "-" +
                                        ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(dir_);
    file_ = dir_ / "a.kld";
  }
  void TearDown() override { fs::remove_all(dir_); }

  static ReferenceKey key(std::uint32_t vocab_size, std::uint64_t num_rows) {
    return {.vocab_size = vocab_size,
            .window = 8,
            .stride = 4,
            .bos = 3,
            .num_tokens = num_rows + 1,
            .num_rows = num_rows,
            .tokens_sha256 = std::string(64, 'a')};
  }

  void write(const std::vector<std::vector<float>>& rows) {
    auto writer =
        ReferenceWriter::create(file_, key(static_cast<std::uint32_t>(rows[0].size()), rows.size()));
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    for (const auto& row : rows) ASSERT_TRUE((*writer)->add(row, 1.25).ok());
    EXPECT_FALSE(fs::exists(file_)) << "it is not complete yet";
    const Status done = (*writer)->finish();
    ASSERT_TRUE(done.ok()) << done.error().message;
  }

  [[nodiscard]] std::string bytes() const {
    std::ifstream in(file_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void set_bytes(const std::string& bytes) const {
    std::ofstream(file_, std::ios::binary | std::ios::trunc) << bytes;
  }

  // Reads all rows; the error if there is one.
  [[nodiscard]] Status read_all() const {
    NIB_TRY(ReferenceReader reader, ReferenceReader::open(file_));
    for (std::uint64_t i = 0; i < reader.key().num_rows; ++i) {
      NIB_TRY(const ReferenceReader::Row row, reader.next());
      for (const float x : row.logits) EXPECT_TRUE(std::isfinite(x));
      EXPECT_LT(row.top1, static_cast<TokenId>(row.logits.size()));
    }
    return {};
  }

  fs::path dir_;
  fs::path file_;
};

TEST_F(ReferenceFile, KeepsLogitsWithinTheStatedBound) {
  Random random(3);
  std::vector<std::vector<float>> rows;
  for (const float scale : {1e-3F, 1.0F, 15.0F, 60.0F, 1e30F}) {
    rows.push_back(random.floats(4001, -scale, scale));
    rows.push_back(random.floats(4001, 100, 100 + scale));
  }
  rows.emplace_back(4001, -7.5F);
  rows.push_back(rows[2]);
  rows.back()[17] = 3e38F;
  write(rows);
  auto reader = ReferenceReader::open(file_);
  ASSERT_TRUE(reader.ok()) << reader.error().message;
  EXPECT_EQ(reader->key().bos, 3);
  EXPECT_TRUE(check_same(reader->key(), key(4001, rows.size())).ok());
  for (const std::vector<float>& row : rows) {
    const auto got = reader->next();
    ASSERT_TRUE(got.ok()) << got.error().message;
    EXPECT_EQ(got->nll, 1.25);
    EXPECT_EQ(got->top1, top1(row));
    const double max = *std::max_element(row.begin(), row.end());
    const double range = max - *std::min_element(row.begin(), row.end());
    const double bound = 0.51 * range / 65535;
    double worst = 0;
    for (std::size_t i = 0; i < row.size(); ++i) {
      worst = std::max(worst, std::abs(got->logits[i] - (row[i] - max)));
    }
    EXPECT_LE(worst, bound);
    if (range > 100) continue;
    EXPECT_LE(kl_divergence(got->logits, row), bound * bound / 2 + 1e-13);
    const auto other = random.floats(4001, -5, 5);
    double low = 1e300;
    double high = -1e300;
    for (std::size_t i = 0; i < row.size(); ++i) {
      low = std::min(low, static_cast<double>(row[i]) - other[i]);
      high = std::max(high, static_cast<double>(row[i]) - other[i]);
    }
    EXPECT_NEAR(kl_divergence(got->logits, other), kl_divergence(row, other),
                bound * bound / 2 + bound / 2 * (high - low));
  }
}

TEST_F(ReferenceFile, LeavesNothingBehindUnlessComplete) {
  {
    auto writer = ReferenceWriter::create(file_, key(5, 2));
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->add(std::vector<float>(5, 1.0F), 0).ok());
    EXPECT_TRUE(fs::exists(dir_ / "a.kld.partial"));
  }
  EXPECT_TRUE(fs::is_empty(dir_));
  for (const fs::path& bad : {dir_, dir_ / "missing" / "b.kld"}) {
    const auto refused = ReferenceWriter::create(bad, key(5, 2));
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::bad_input);
  }
}

TEST_F(ReferenceFile, RefusesTruncatedAndHostileFiles) {
  Random random(4);
  write({random.floats(7), random.floats(7), random.floats(7)});
  const std::string good = bytes();
  ASSERT_EQ(good.size(), 112U + 3 * (12 + 14));
  ASSERT_TRUE(read_all().ok());
  const auto expect_refused = [&](const std::string& changed, const char* text) {
    set_bytes(changed);
    const Status status = read_all();
    ASSERT_FALSE(status.ok()) << text;
    EXPECT_EQ(status.error().code, ErrorCode::bad_input);
    EXPECT_THAT(status.error().message, HasSubstr(text));
    EXPECT_THAT(status.error().message, HasSubstr(file_.string()));
  };
  for (std::size_t size = 0; size < good.size(); ++size) {
    expect_refused(good.substr(0, size), size < 112 ? "less than a header" : "bytes");
  }
  expect_refused(good + "x", "the file has 191 bytes, 3 rows of 7 logits need 190");
  const auto with = [&](std::size_t offset, auto value) {
    std::string changed = good;
    std::memcpy(changed.data() + offset, &value, sizeof value);
    return changed;
  };
  expect_refused(with(0, 'x'), "no file of saved reference logits");
  expect_refused(with(8, std::uint32_t{2}), "version 2");
  expect_refused(with(12, std::uint32_t{0}), "header is damaged");
  expect_refused(with(12, ~std::uint32_t{0}), "header is damaged");
  expect_refused(with(12, std::uint32_t{1} << 24), "rows of 16777216 logits");
  expect_refused(with(16, std::uint32_t{1}), "header is damaged");
  expect_refused(with(20, std::uint32_t{0}), "header is damaged");
  expect_refused(with(24, std::int32_t{7}), "header is damaged");
  expect_refused(with(24, std::int32_t{-2}), "header is damaged");
  expect_refused(with(32, ~std::uint64_t{0}), "header is damaged");
  expect_refused(with(40, std::uint64_t{0}), "header is damaged");
  expect_refused(with(40, ~std::uint64_t{0}), "header is damaged");
  expect_refused(with(48, '\0'), "header is damaged");
  constexpr std::size_t kRow = 112 + 26;  // the second
  expect_refused(with(kRow, std::nanf("")), "row 1 is damaged");
  expect_refused(with(kRow, -1.0F), "row 1 is damaged");
  expect_refused(with(kRow, 1e38F), "row 1 is damaged");
  expect_refused(with(kRow + 4, -1.0F), "row 1 is damaged");
  expect_refused(with(kRow + 8, TokenId{7}), "row 1 is damaged");
  expect_refused(with(kRow + 8, TokenId{-1}), "row 1 is damaged");
  for (int i = 0; i < 3000; ++i) {
    std::string changed = good;
    for (std::int64_t n = random.below(4); n >= 0; --n) {
      changed[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(changed.size())))] =
          static_cast<char>(random.below(256));
    }
    set_bytes(changed);
    if (const Status status = read_all(); !status.ok()) {
      EXPECT_EQ(status.error().code, ErrorCode::bad_input);
    }
  }
  fs::remove(file_);
  EXPECT_EQ(read_all().error().code, ErrorCode::bad_input);
  EXPECT_FALSE(ReferenceReader::open(dir_).ok());
}

TEST_F(ReferenceFile, SaysInWhatTwoRunsDiffer) {
  const ReferenceKey same = key(100, 10);
  EXPECT_TRUE(check_same(same, key(100, 10)).ok());
  const auto expect_refused = [&](const std::function<void(ReferenceKey&)>& change, const char* text) {
    ReferenceKey other = same;
    change(other);
    const Status status = check_same(other, same);
    ASSERT_FALSE(status.ok()) << text;
    EXPECT_EQ(status.error().code, ErrorCode::bad_input);
    EXPECT_THAT(status.error().message, HasSubstr(text));
  };
  expect_refused([](auto& k) { k.vocab_size = 99; }, "vocabulary of 99, the model one of 100");
  expect_refused([](auto& k) { k.num_tokens = 12; }, "made from 12 tokens, the text has 11");
  expect_refused([](auto& k) { k.tokens_sha256[5] = 'b'; }, "other token ids");
  expect_refused([](auto& k) { k.window = 9; },
                 "windows of 9 tokens, stride 4, BOS 3; this run has 8, 4, BOS 3");
  expect_refused([](auto& k) { k.stride = 5; }, "stride 5");
  expect_refused([](auto& k) { k.bos.reset(); }, "no BOS");
}

// The demo model and a short text, in float32 arithmetic.
class DemoDivergence : public ReferenceFile {
 protected:
  void SetUp() override {
    ReferenceFile::SetUp();
    model_dir_ = testing::test_data("../../models/demo");
    if (!fs::exists(model_dir_ / "tokenizer.json")) GTEST_SKIP() << "no demo model";
  }

  [[nodiscard]] std::unique_ptr<Llm> load(const std::string& quantization) const {
    auto llm = Llm::load({.model = model_dir_,
                          .quantization = quantization,
                          .isa = "scalar",
                          .num_threads = 2,
                          .max_model_len = 64});
    EXPECT_TRUE(llm.ok()) << llm.error().message;
    return llm.ok() ? std::move(*llm) : nullptr;
  }

  fs::path model_dir_;
  const std::string text_ =
      "They were not railway children to begin with. I don't suppose they had ever thought about railways "
      "except "
      "as a means of getting to Maskelyne and Cook's, the Pantomime, Zoological Gardens, and Madame "
      "Tussaud's.";
  const PerplexityOptions windows_{.window = 24, .stride = 12};
};

TEST_F(DemoDivergence, OfAModelFromItselfIsNothing) {
  const auto llm = load("auto");
  const auto again = load("auto");
  ASSERT_TRUE(llm && again);
  const auto self = kl_divergence(*llm, *again, text_, windows_);
  ASSERT_TRUE(self.ok()) << self.error().message;
  EXPECT_LT(self->max, 1e-9);
  EXPECT_EQ(self->top1_agreement, 1);
  const auto plain = llm->perplexity(text_, windows_);
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(self->tokens, plain->tokens);
  EXPECT_DOUBLE_EQ(self->nll, plain->nll);
  EXPECT_DOUBLE_EQ(self->perplexity, plain->perplexity);
  EXPECT_DOUBLE_EQ(self->reference_perplexity, plain->perplexity);

  std::uint64_t last_done = 0;
  const auto saved =
      save_reference(*llm, text_, windows_, file_,
                     [&](std::string_view, std::uint64_t done, std::uint64_t, std::string_view) {
                       last_done = done;
                       return true;
                     });
  ASSERT_TRUE(saved.ok()) << saved.error().message;
  EXPECT_EQ(last_done, llm->tokenizer()->encode(text_)->size());
  EXPECT_EQ(saved->tokens, plain->tokens);
  EXPECT_DOUBLE_EQ(saved->nll, plain->nll);
  EXPECT_EQ(saved->file_bytes, fs::file_size(file_));
  const auto from_file = kl_divergence(*llm, file_, text_, windows_);
  ASSERT_TRUE(from_file.ok()) << from_file.error().message;
  const double bound = 0.51 * 60 / 65535;  // logits range over less than 60
  EXPECT_LT(from_file->max, bound * bound / 2);
  EXPECT_EQ(from_file->top1_agreement, 1);
  EXPECT_NEAR(from_file->reference_nll, plain->nll, 1e-6 * plain->nll);
}

TEST_F(DemoDivergence, OfTwoSchemesAgreesWithTheDefinition) {
  const auto reference = load("bf16");
  ASSERT_NE(reference, nullptr);
  ASSERT_TRUE(save_reference(*reference, text_, windows_, file_).ok());
  for (const char* scheme : {"mxfp4", "int8"}) {
    const auto llm = load(scheme);
    ASSERT_NE(llm, nullptr);
    std::vector<double> want;
    double agreed = 0;
    const auto windows = llm->text_windows(text_, windows_);
    ASSERT_TRUE(windows.ok());
    const auto width = static_cast<std::size_t>(llm->info().vocab_size);
    for (const auto& [begin, end, first] : windows->windows) {
      const std::vector<TokenId> ids(windows->tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                     windows->tokens.begin() + static_cast<std::ptrdiff_t>(end));
      const auto p = reference->logits({.tokens = ids});
      const auto q = llm->logits({.tokens = ids});
      ASSERT_TRUE(p.ok() && q.ok());
      for (std::size_t t = first; t < end; ++t) {
        const std::size_t row = (t - 1 - begin) * width;
        const auto a = std::span(*p).subspan(row, width);
        const auto b = std::span(*q).subspan(row, width);
        want.push_back(slow_divergence(a, b));
        agreed += top1(a) == top1(b) ? 1 : 0;
      }
    }
    std::sort(want.begin(), want.end());
    double mean = 0;
    for (const double d : want) mean += d / static_cast<double>(want.size());
    const auto live = kl_divergence(*llm, *reference, text_, windows_);
    ASSERT_TRUE(live.ok()) << live.error().message;
    EXPECT_EQ(live->tokens, static_cast<std::int64_t>(want.size()));
    EXPECT_GT(live->mean, 1e-5);
    EXPECT_NEAR(live->mean, mean, 1e-5 * mean) << scheme;
    EXPECT_NEAR(live->median, quantile(want, 0.5), 1e-5 * mean) << scheme;
    EXPECT_NEAR(live->p99, quantile(want, 0.99), 1e-4 * mean) << scheme;
    EXPECT_NEAR(live->max, want.back(), 1e-4 * mean) << scheme;
    EXPECT_NEAR(live->top1_agreement, agreed / static_cast<double>(want.size()), 1e-12);
    const auto from_file = kl_divergence(*llm, file_, text_, windows_);
    ASSERT_TRUE(from_file.ok()) << from_file.error().message;
    EXPECT_NEAR(from_file->mean, live->mean, 2e-4 * std::sqrt(live->mean)) << scheme;
    EXPECT_EQ(from_file->top1_agreement, live->top1_agreement);
    EXPECT_DOUBLE_EQ(from_file->perplexity, live->perplexity);
  }
}

TEST_F(DemoDivergence, RefusesAnotherTextAndCanBeInterrupted) {
  const auto llm = load("auto");
  ASSERT_NE(llm, nullptr);
  ASSERT_TRUE(save_reference(*llm, text_, windows_, file_).ok());
  const auto error_of = [&](std::string_view text, const PerplexityOptions& options) {
    const auto refused = kl_divergence(*llm, file_, text, options);
    EXPECT_FALSE(refused.ok());
    if (refused.ok()) return std::string();
    EXPECT_EQ(refused.error().code, ErrorCode::bad_input);
    return refused.error().message;
  };
  EXPECT_THAT(error_of(text_ + " Indeed.", windows_), HasSubstr("tokens, the text has"));
  std::string other = text_;
  other.replace(0, 4, "Some");
  EXPECT_THAT(error_of(other, windows_), ::testing::AnyOf(HasSubstr("token ids"), HasSubstr("tokens")));
  EXPECT_THAT(error_of(text_, {.window = 24}), HasSubstr("windows of 24 tokens, stride 12"));
  EXPECT_THAT(error_of(text_, {.window = 24, .stride = 12, .num_tokens = 20}), HasSubstr("the text has 20"));

  const fs::path unfinished = dir_ / "b.kld";
  const auto stopped =
      save_reference(*llm, text_, windows_, unfinished, [](auto, auto, auto, auto) { return false; });
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::interrupted);
  EXPECT_FALSE(fs::exists(unfinished));
  EXPECT_FALSE(fs::exists(dir_ / "b.kld.partial"));
  const auto few = llm->perplexity(text_, {.num_tokens = 20});
  ASSERT_TRUE(few.ok());
  EXPECT_EQ(few->tokens, 19);
  EXPECT_LT(few->bytes, static_cast<std::int64_t>(text_.size()));
  EXPECT_FALSE(llm->perplexity(text_, {.num_tokens = -1}).ok());
}

TEST_F(DemoDivergence, RefusesWindowsThatAreNotTheModels) {
  const auto llm = load("auto");
  ASSERT_NE(llm, nullptr);
  const auto good = llm->text_windows(text_, windows_);
  ASSERT_TRUE(good.ok());
  const auto nothing = [](TokenId, std::span<const float>) { return Status(); };
  EXPECT_TRUE(llm->predictions(*good, 0, nothing).ok());
  const auto expect_refused = [&](const std::function<void(TextWindows&)>& change) {
    TextWindows bad = *good;
    change(bad);
    EXPECT_FALSE(llm->predictions(bad, 0, nothing).ok());
  };
  EXPECT_FALSE(llm->predictions(*good, good->windows.size(), nothing).ok());
  expect_refused([](TextWindows& w) { w.windows[0].end = 1000000; });
  expect_refused([](TextWindows& w) { w.windows[0].end = 65; });
  expect_refused([](TextWindows& w) { w.windows[0].first = 0; });
  expect_refused([](TextWindows& w) { w.windows[0].first = 30; });
  expect_refused([](TextWindows& w) { w.tokens[3] = -1; });
  expect_refused([](TextWindows& w) { w.tokens[3] = 1 << 20; });
  expect_refused([](TextWindows& w) { w.bos = -5; });
}

}  // namespace
}  // namespace nibble::engine
