// A file of a reference model's logits for a text (".kld"), written and read row by row.
//
// Little-endian, no padding:
//   header, 112 bytes   char magic[8] "nibblkld"; u32 version (1), vocab_size, window, stride; i32 bos (-1:
//                       none); u32 0; u64 num_tokens (of the text), num_rows; char sha256[64] of the token
//                       ids as i32, in hexadecimal
//   num_rows rows, one for each scored token in the order of the text, 12 + 2 vocab_size bytes each:
//                       f32 step; f32 nll of the true token; i32 top-1 token; u16 q[vocab_size]
// A logit is its row's greatest minus q * step, with step = (max - min) / 65535 rounded up. Read back it is
// off by at most half a step and float32 rounding: d = 0.51 (max - min) / 65535, 2.3e-4 nats at a range
// of 30. The distribution p' that is read back then has D(p' || p) <= d^2 / 2 (Hoeffding's lemma), and for
// any q |D(p' || q) - D(p || q)| <= d^2 / 2 + d / 2 * (max - min of log(p / q)) (Pinsker's inequality). nll
// is exact to float32, top-1 is exact.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nibble/llm.h"
#include "nibble/result.h"
#include "nibble/types.h"

namespace nibble::engine {

// What a reference was made for; equal for runs that can be compared.
struct ReferenceKey {
  std::uint32_t vocab_size = 0;
  std::uint32_t window = 0;
  std::uint32_t stride = 0;
  std::optional<TokenId> bos;
  std::uint64_t num_tokens = 0;
  std::uint64_t num_rows = 0;
  std::string tokens_sha256;

  static ReferenceKey of(const TextWindows& text, std::int32_t vocab_size);
};

// bad_input that names the first field in which a file's key is not the wanted one.
Status check_same(const ReferenceKey& file, const ReferenceKey& wanted);

struct FileCloser {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using FileHandle = std::unique_ptr<std::FILE, FileCloser>;

// Writes to "<file>.partial", which becomes `file` in finish() and is removed if that isn't reached.
class ReferenceWriter {
 public:
  static Result<std::unique_ptr<ReferenceWriter>> create(const std::filesystem::path& file,
                                                         const ReferenceKey& key);
  ~ReferenceWriter();
  ReferenceWriter(const ReferenceWriter&) = delete;
  ReferenceWriter& operator=(const ReferenceWriter&) = delete;

  // key.vocab_size finite logits; nll is that of the true token.
  Status add(std::span<const float> logits, double nll);
  // After key.num_rows rows.
  Status finish();

 private:
  ReferenceWriter(std::filesystem::path file, const ReferenceKey& key);
  [[nodiscard]] Error failed(const char* what) const;

  std::filesystem::path file_;
  std::filesystem::path partial_;
  std::uint64_t rows_left_;
  std::vector<unsigned char> row_;
  FileHandle out_;
};

class ReferenceReader {
 public:
  // bad_input unless it is a whole file of a version known here. Allocates no more than a row, which the
  // file is known to contain.
  static Result<ReferenceReader> open(const std::filesystem::path& file);

  [[nodiscard]] const ReferenceKey& key() const { return key_; }

  struct Row {
    std::span<const float> logits;  // less the greatest one; valid until the next call
    double nll = 0;
    TokenId top1 = 0;
  };
  // At most key().num_rows times.
  Result<Row> next();

 private:
  ReferenceReader() = default;

  std::filesystem::path file_;
  ReferenceKey key_;
  FileHandle in_;
  std::uint64_t row_idx_ = 0;
  std::vector<unsigned char> row_;
  std::vector<float> logits_;
};

}  // namespace nibble::engine
