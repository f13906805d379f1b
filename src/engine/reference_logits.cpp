#include "engine/reference_logits.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "core/sha256.h"
#include "engine/kld.h"

namespace nibble::engine {
namespace {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "the file holds its numbers as they are in memory");

constexpr std::array<char, 8> kMagic{'n', 'i', 'b', 'b', 'l', 'k', 'l', 'd'};
constexpr std::uint32_t kVersion = 1;
constexpr std::int32_t kNoBos = -1;
constexpr std::uint32_t kMaxVocabSize = 1U << 24;
constexpr std::uint32_t kMaxWindow = 1U << 30;
constexpr std::uint64_t kMaxTokens = std::uint64_t{1} << 36;
constexpr float kMaxCode = 65535.0F;

struct FileHeader {
  std::array<char, 8> magic = kMagic;
  std::uint32_t version = kVersion;
  std::uint32_t vocab_size = 0;
  std::uint32_t window = 0;
  std::uint32_t stride = 0;
  std::int32_t bos = kNoBos;
  std::uint32_t reserved = 0;
  std::uint64_t num_tokens = 0;
  std::uint64_t num_rows = 0;
  std::array<char, 64> sha256{};
};
static_assert(sizeof(FileHeader) == 112);

struct RowHeader {
  float step = 0;
  float nll = 0;
  TokenId top1 = 0;
};
static_assert(sizeof(RowHeader) == 12);

std::size_t row_bytes(std::uint32_t vocab_size) {
  return sizeof(RowHeader) + sizeof(std::uint16_t) * static_cast<std::size_t>(vocab_size);
}

FileHeader header_of(const ReferenceKey& key) {
  FileHeader header{.vocab_size = key.vocab_size,
                    .window = key.window,
                    .stride = key.stride,
                    .bos = key.bos.value_or(kNoBos),
                    .num_tokens = key.num_tokens,
                    .num_rows = key.num_rows};
  NIB_CHECK(key.tokens_sha256.size() == header.sha256.size(), "digest '{}'", key.tokens_sha256);
  std::copy(key.tokens_sha256.begin(), key.tokens_sha256.end(), header.sha256.begin());
  return header;
}

Error damaged(const fs::path& file, const std::string& what) {
  return bad_input(fmt::format("{}: {}; make the reference again (--save-reference)", file.string(), what));
}

Status check_header(const FileHeader& header, std::uint64_t file_bytes, const fs::path& file) {
  if (header.magic != kMagic) return damaged(file, "this is no file of saved reference logits");
  if (header.version != kVersion) {
    return damaged(file, fmt::format("version {} of the format, this nibble reads version {}", header.version,
                                     kVersion));
  }
  const bool hex = std::all_of(header.sha256.begin(), header.sha256.end(),
                               [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
  const bool sane = header.vocab_size >= 1 && header.vocab_size <= kMaxVocabSize && header.window >= 2 &&
                    header.window <= kMaxWindow && header.stride >= 1 && header.stride <= header.window &&
                    header.bos >= kNoBos && header.bos < static_cast<std::int32_t>(header.vocab_size) &&
                    header.reserved == 0 && header.num_tokens <= kMaxTokens && header.num_rows >= 1 &&
                    header.num_rows <= header.num_tokens && hex;
  if (!sane) return damaged(file, "the header is damaged");
  // At most 2^36 rows of 2^26 bytes: no overflow.
  const std::uint64_t expected = sizeof header + header.num_rows * row_bytes(header.vocab_size);
  if (expected != file_bytes) {
    return damaged(file, fmt::format("the file has {} bytes, {} rows of {} logits need {}", file_bytes,
                                     header.num_rows, header.vocab_size, expected));
  }
  return {};
}

// The least float step that reaches from 0 to `range` in 65535.
float step_for(double range) {
  const double exact = range / kMaxCode;
  auto step = static_cast<float>(exact);
  if (step < exact) step = std::nextafter(step, std::numeric_limits<float>::max());
  return step;
}

}  // namespace

ReferenceKey ReferenceKey::of(const TextWindows& text, std::int32_t vocab_size) {
  Sha256 digest;
  digest.update(std::as_bytes(std::span(text.tokens)));
  return {.vocab_size = static_cast<std::uint32_t>(vocab_size),
          .window = static_cast<std::uint32_t>(text.window),
          .stride = static_cast<std::uint32_t>(text.stride),
          .bos = text.bos,
          .num_tokens = text.tokens.size(),
          .num_rows = static_cast<std::uint64_t>(text.num_scored),
          .tokens_sha256 = digest.hex_digest()};
}

Status check_same(const ReferenceKey& file, const ReferenceKey& wanted) {
  if (file.vocab_size != wanted.vocab_size) {
    return bad_input(fmt::format(
        "the reference has a vocabulary of {}, the model one of {}; take a reference of the same model",
        file.vocab_size, wanted.vocab_size));
  }
  if (file.num_tokens != wanted.num_tokens) {
    return bad_input(fmt::format(
        "the reference was made from {} tokens, the text has {}; give the same text, tokenizer and --tokens",
        file.num_tokens, wanted.num_tokens));
  }
  if (file.tokens_sha256 != wanted.tokens_sha256) {
    return bad_input("the reference was made from other token ids; give the same text and tokenizer");
  }
  const auto bos_text = [](const ReferenceKey& key) {
    return key.bos ? fmt::format("BOS {}", *key.bos) : std::string("no BOS");
  };
  if (file.window != wanted.window || file.stride != wanted.stride || file.bos != wanted.bos) {
    return bad_input(fmt::format(
        "the reference has windows of {} tokens, stride {}, {}; this run has {}, {}, {}; give the same "
        "--max-model-len, --stride and --bos",
        file.window, file.stride, bos_text(file), wanted.window, wanted.stride, bos_text(wanted)));
  }
  if (file.num_rows != wanted.num_rows) {
    return bad_input(fmt::format("the reference has {} scored tokens, this run has {}; make it again",
                                 file.num_rows, wanted.num_rows));
  }
  return {};
}

ReferenceWriter::ReferenceWriter(fs::path file, const ReferenceKey& key)
    : file_(std::move(file)),
      partial_(file_.string() + ".partial"),
      rows_left_(key.num_rows),
      row_(row_bytes(key.vocab_size)) {}

ReferenceWriter::~ReferenceWriter() {
  if (out_ != nullptr) ::unlink(partial_.c_str());
}

Error ReferenceWriter::failed(const char* what) const {
  return runtime_error(fmt::format("cannot {}: {} ({})", what, std::strerror(errno), partial_.string()));
}

Result<std::unique_ptr<ReferenceWriter>> ReferenceWriter::create(const fs::path& file,
                                                                 const ReferenceKey& key) {
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) {
    return bad_input(fmt::format("expected a file name, found a directory ({})", file.string()));
  }
  std::unique_ptr<ReferenceWriter> writer(new ReferenceWriter(file, key));
  writer->out_.reset(std::fopen(writer->partial_.c_str(), "wbe"));
  if (writer->out_ == nullptr) {
    return bad_input(fmt::format("cannot write: {} ({}); check the path", std::strerror(errno),
                                 writer->partial_.string()));
  }
  const FileHeader header = header_of(key);
  if (std::fwrite(&header, sizeof header, 1, writer->out_.get()) != 1) return writer->failed("write");
  return writer;
}

Status ReferenceWriter::add(std::span<const float> logits, double nll) {
  NIB_CHECK(row_bytes(static_cast<std::uint32_t>(logits.size())) == row_.size() && rows_left_ > 0,
            "a row of {} logits, {} rows left", logits.size(), rows_left_);
  const TokenId best = top1(logits);
  const double max = logits[static_cast<std::size_t>(best)];
  const float step = step_for(max - *std::min_element(logits.begin(), logits.end()));
  const double steps_per_nat = step > 0 ? 1.0 / step : 0.0;
  const RowHeader header{.step = step, .nll = static_cast<float>(nll), .top1 = best};
  std::memcpy(row_.data(), &header, sizeof header);
  unsigned char* out = row_.data() + sizeof header;
  for (const float logit : logits) {
    const double code = std::min((max - logit) * steps_per_nat + 0.5, static_cast<double>(kMaxCode));
    const auto q = static_cast<std::uint16_t>(code);
    std::memcpy(out, &q, sizeof q);
    out += sizeof q;
  }
  if (std::fwrite(row_.data(), row_.size(), 1, out_.get()) != 1) return failed("write");
  --rows_left_;
  return {};
}

Status ReferenceWriter::finish() {
  NIB_CHECK(rows_left_ == 0, "{} rows are missing", rows_left_);
  if (std::fflush(out_.get()) != 0 || ::fsync(::fileno(out_.get())) != 0) return failed("write");
  if (::rename(partial_.c_str(), file_.c_str()) != 0) return failed("rename to its final name");
  out_.reset();
  return {};
}

Result<ReferenceReader> ReferenceReader::open(const fs::path& file) {
  std::error_code error;
  const std::uint64_t bytes = fs::is_regular_file(file, error) ? fs::file_size(file, error) : 0;
  ReferenceReader reader;
  reader.file_ = file;
  if (!error) reader.in_.reset(std::fopen(file.c_str(), "rbe"));
  if (reader.in_ == nullptr) {
    return bad_input(fmt::format("cannot open: {} ({}); check the path",
                                 error ? error.message() : std::strerror(errno), file.string()));
  }
  FileHeader header;
  if (std::fread(&header, sizeof header, 1, reader.in_.get()) != 1) {
    return damaged(file, fmt::format("{} bytes are less than a header", bytes));
  }
  NIB_TRY_STATUS(check_header(header, bytes, file));
  reader.key_ = {.vocab_size = header.vocab_size,
                 .window = header.window,
                 .stride = header.stride,
                 .bos = header.bos == kNoBos ? std::optional<TokenId>() : header.bos,
                 .num_tokens = header.num_tokens,
                 .num_rows = header.num_rows,
                 .tokens_sha256 = std::string(header.sha256.begin(), header.sha256.end())};
  reader.row_.resize(row_bytes(header.vocab_size));
  reader.logits_.resize(header.vocab_size);
  return reader;
}

Result<ReferenceReader::Row> ReferenceReader::next() {
  NIB_CHECK(row_idx_ < key_.num_rows, "row {} of {}", row_idx_, key_.num_rows);
  if (std::fread(row_.data(), row_.size(), 1, in_.get()) != 1) {
    return damaged(file_, fmt::format("row {} cannot be read", row_idx_));
  }
  RowHeader header;
  std::memcpy(&header, row_.data(), sizeof header);
  const unsigned char* codes = row_.data() + sizeof header;
  const auto code_of = [&](std::size_t i) {
    std::uint16_t q = 0;
    std::memcpy(&q, codes + i * sizeof q, sizeof q);
    return q;
  };
  const bool sane = std::isfinite(header.step) && header.step >= 0 && std::isfinite(header.step * kMaxCode) &&
                    std::isfinite(header.nll) && header.nll >= 0 && header.top1 >= 0 &&
                    static_cast<std::size_t>(header.top1) < logits_.size() &&
                    code_of(static_cast<std::size_t>(header.top1)) == 0;
  if (!sane) return damaged(file_, fmt::format("row {} is damaged", row_idx_));
  for (std::size_t i = 0; i < logits_.size(); ++i) {
    logits_[i] = -header.step * static_cast<float>(code_of(i));
  }
  ++row_idx_;
  return Row{.logits = logits_, .nll = header.nll, .top1 = header.top1};
}

}  // namespace nibble::engine
