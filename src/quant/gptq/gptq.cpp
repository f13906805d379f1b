#include "quant/gptq/gptq.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "quant/encode/encoder.h"
#include "quant/encode/int_scale.h"
#include "quant/encode/scale_rounding.h"
#include "quant/gptq/dense.h"
#include "quant/int_layouts.h"

namespace nibble::quant {
namespace {

// Rows that go through the channels together; U is read once for all of them.
constexpr std::int64_t kTileRows = 32;
// Channels whose compensation is applied to the later ones in one matrix product (the paper's lazy batch).
constexpr std::int64_t kMaxBatch = 128;

// As kMaxBatch, but so that no group begins inside a batch and ends beyond it: its scale would be chosen
// before the batch's errors have reached its last weights.
std::int64_t batch_size(std::int64_t group_k, std::int64_t k) {
  if (group_k >= k) return kMaxBatch;
  if (group_k <= kMaxBatch) return kMaxBatch / group_k * group_k;
  std::int64_t batch = kMaxBatch;
  while (group_k % batch != 0) batch -= 32;
  return batch;
}

// What all tiles share.
struct Job {
  const float* w;  // [n, k]
  const HessianFactor& factor;
  IntScaleRule rule;
  bool static_groups;
  MatrixView view;  // shape and grouping of the result
  std::span<std::byte> codes;
  std::span<std::byte> scales;
  std::span<std::byte> zeros;
};

// A few rows on their way through the channels, which lie in the order of rounding.
class RowTile {
 public:
  RowTile(const Job& job, std::int64_t row_begin, std::int64_t rows)
      : job_(job),
        k_(job.view.k),
        row_begin_(row_begin),
        rows_(rows),
        batch_(batch_size(job.view.group_k(), k_)) {
    weights_.resize(static_cast<std::size_t>(rows * k_));
    codes_.resize(weights_.size());
    errors_.resize(static_cast<std::size_t>(rows * batch_));
    scales_.resize(static_cast<std::size_t>(rows * job.view.num_groups()));
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = 0; i < k_; ++i) weights(r)[i] = original(r)[channel(i)];
    }
  }

  // Returns the loss.
  double run() {
    if (job_.static_groups) choose_static_scales();
    double loss = 0.0;
    for (std::int64_t begin = 0; begin < k_; begin += batch_) {
      const std::int64_t end = std::min(begin + batch_, k_);
      for (std::int64_t i = begin; i < end; ++i) {
        if (!job_.static_groups && i % job_.view.group_k() == 0) choose_scales_at(i);
        for (std::int64_t r = 0; r < rows_; ++r) loss += round_weight(r, i, begin, end);
      }
      subtract_product<float>({errors_.data(), batch_}, {job_.factor.row(begin) + end, k_},
                              {weights(0) + end, k_}, rows_, end - begin, k_ - end);
    }
    write();
    return loss;
  }

 private:
  [[nodiscard]] const float* original(std::int64_t r) const { return job_.w + (row_begin_ + r) * k_; }
  [[nodiscard]] float* weights(std::int64_t r) { return weights_.data() + r * k_; }
  [[nodiscard]] std::int64_t channel(std::int64_t i) const {
    return job_.factor.order()[static_cast<std::size_t>(i)];
  }
  [[nodiscard]] std::int64_t group_of(std::int64_t i) const {
    return (job_.static_groups ? channel(i) : i) / job_.view.group_k();
  }
  IntScale& scale(std::int64_t r, std::int64_t group) {
    return scales_[static_cast<std::size_t>(r * job_.view.num_groups() + group)];
  }

  void choose_static_scales() {
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t group = 0; group < job_.view.num_groups(); ++group) {
        const std::int64_t first = group * job_.view.group_k();
        scale(r, group) =
            choose_int_scale(original(r) + first, std::min(job_.view.group_k(), k_ - first), job_.rule);
      }
    }
  }

  void choose_scales_at(std::int64_t i) {
    const std::int64_t count = std::min(job_.view.group_k(), k_ - i);
    for (std::int64_t r = 0; r < rows_; ++r)
      scale(r, group_of(i)) = choose_int_scale(weights(r) + i, count, job_.rule);
  }

  // Rounds weight i of row r and compensates within the batch [begin, end). Returns the squared error.
  double round_weight(std::int64_t r, std::int64_t i, std::int64_t begin, std::int64_t end) {
    const IntScale& s = scale(r, group_of(i));
    float* w = weights(r);
    const float* u = job_.factor.row(i);
    const int code = int_code(w[i], s, job_.rule.min_code(), job_.rule.max_code());
    const float error = (w[i] - static_cast<float>(code - s.zero) * s.scale) / u[i];
    codes_[static_cast<std::size_t>(r * k_ + channel(i))] = static_cast<std::int8_t>(code);
    errors_[static_cast<std::size_t>(r * batch_ + i - begin)] = error;
    for (std::int64_t j = i + 1; j < end; ++j) w[j] -= error * u[j];
    return static_cast<double>(error) * static_cast<double>(error);
  }

  void write() {
    const std::int64_t groups = job_.view.num_groups();
    const std::int64_t row_bytes = code_row_bytes(job_.view.format, k_);
    for (std::int64_t r = 0; r < rows_; ++r) {
      const std::int64_t row = row_begin_ + r;
      write_codes(codes_.data() + r * k_,
                  reinterpret_cast<std::uint8_t*>(job_.codes.data()) + row * row_bytes);
      for (std::int64_t group = 0; group < groups; ++group) {
        const IntScale& s = scale(r, group);
        store_scale(job_.scales.data(), job_.view.scale_dtype, row * groups + group, s.scale);
        if (!job_.rule.zero_points) continue;
        job_.zeros[static_cast<std::size_t>(row * groups + group)] = static_cast<std::byte>(s.zero);
      }
    }
  }

  void write_codes(const std::int8_t* codes, std::uint8_t* out) const {
    if (job_.rule.bits == 8) {
      std::memcpy(out, codes, static_cast<std::size_t>(k_));
      return;
    }
    for (std::int64_t i = 0; i < k_; i += 2) {
      out[i / 2] = static_cast<std::uint8_t>((codes[i] + 8) | ((codes[i + 1] + 8) << 4));
    }
  }

  const Job& job_;
  std::int64_t k_;
  std::int64_t row_begin_;
  std::int64_t rows_;
  std::int64_t batch_;
  std::vector<float> weights_;
  std::vector<float> errors_;
  std::vector<std::int8_t> codes_;  // centred, by channel
  std::vector<IntScale> scales_;
};

// Groups of channels that were rounded one after the other.
std::vector<std::int32_t> groups_by_order(const HessianFactor& factor, std::int64_t group_k) {
  std::vector<std::int32_t> g_idx(factor.order().size());
  for (std::size_t i = 0; i < g_idx.size(); ++i) {
    g_idx[static_cast<std::size_t>(factor.order()[i])] =
        static_cast<std::int32_t>(static_cast<std::int64_t>(i) / group_k);
  }
  return g_idx;
}

}  // namespace

MatrixView GptqMatrix::view() const noexcept {
  MatrixView view = matrix.view();
  view.grouping.act_order = !g_idx.empty();
  view.g_idx = g_idx.empty() ? nullptr : reinterpret_cast<const std::byte*>(g_idx.data());
  return view;
}

Result<GptqMatrix> gptq_quantize(const float* w, std::int64_t n, const HessianFactor& factor,
                                 const GptqOptions& options, ThreadPool& threads) {
  if (options.format != WeightFormat::int4 && options.format != WeightFormat::int8) {
    return bad_input("GPTQ makes int4 and int8 codes, not " + std::string(format_name(options.format)));
  }
  NIB_TRY(EncodedMatrix matrix, EncodedMatrix::allocate(n, factor.k(),
                                                        {.format = options.format,
                                                         .group_k = options.group_k,
                                                         .scale_dtype = DType::f16,
                                                         .scales = options.scales,
                                                         .zero_points = options.zero_points}));
  const Job job{.w = w,
                .factor = factor,
                .rule = {.bits = format_row(options.format).bits,
                         .zero_points = options.zero_points,
                         .scale_dtype = DType::f16,
                         .scales = options.scales},
                .static_groups = options.static_groups,
                .view = matrix.view(),
                .codes = matrix.codes(),
                .scales = matrix.scales(),
                .zeros = matrix.zeros()};
  std::vector<double> losses(static_cast<std::size_t>((n + kTileRows - 1) / kTileRows));
  threads.parallel_for(static_cast<std::int64_t>(losses.size()), [&](std::int64_t task, int) {
    const std::int64_t begin = task * kTileRows;
    losses[static_cast<std::size_t>(task)] = RowTile(job, begin, std::min(kTileRows, n - begin)).run();
  });
  const bool by_order = factor.act_order() && !options.static_groups && job.view.num_groups() > 1;
  return GptqMatrix{
      .matrix = std::move(matrix),
      .g_idx = by_order ? groups_by_order(factor, job.view.group_k()) : std::vector<std::int32_t>{},
      .loss = std::accumulate(losses.begin(), losses.end(), 0.0)};
}

}  // namespace nibble::quant
