// MatrixEncoder: matrices of any stored format into another one, on all threads.
#pragma once

#include <string>
#include <vector>

#include "core/thread_pool.h"
#include "nibble/result.h"
#include "quant/encode/encode.h"
#include "quant/encode/requantize.h"
#include "quant/int_layouts.h"

namespace nibble::models {

struct EncodedResult {
  quant::EncodedMatrix matrix;
  quant::EncodeError error;
};

class MatrixEncoder {
 public:
  explicit MatrixEncoder(ThreadPool& threads);

  // The matrix in the format of `options`, and what that did to it. bad_input naming `name` and the value
  // that no valid checkpoint holds. The result does not depend on the number of threads.
  Result<EncodedResult> encode(const quant::MatrixView& source, const quant::EncodeOptions& options,
                               const std::string& name);

  // Largest |w|; infinity or NaN if there is one.
  float abs_max(const quant::MatrixView& source);

 private:
  // Scratch of one thread.
  struct Scratch {
    std::vector<float> rows;
    quant::RowBuffer canonical;
  };

  template <class Fn>
  void for_rows(const quant::MatrixView& source, std::int64_t block, Fn&& fn);

  ThreadPool& threads_;
  std::vector<Scratch> scratch_;
};

}  // namespace nibble::models
