#include "kernels/cuda/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/fragments.h"
#include "kernels/cuda/layout.h"

namespace nibble::kernels::cuda {
namespace {

using quant::WeightFormat;

// A stream of one packing thread and page-locked memory in two parts: one is filled while the other is read.
class Uploader {
 public:
  static Uploader& of_this_thread() {
    thread_local Uploader uploader;
    return uploader;
  }

  // At least so many bytes, free to be written until `hand_over`.
  std::byte* staging(std::size_t bytes) {
    Part& part = parts_[current_];
    check(cudaEventSynchronize(part.done), "copy of weights");
    if (bytes > part.memory.size()) part.memory = allocate_pinned(bytes);
    return part.memory.data();
  }
  void copy(std::byte* dst, const std::byte* src, std::size_t bytes) {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, stream_), "copy of weights");
  }
  // What was queued reads the staging memory; `reader`, another stream, waits for its results.
  void hand_over(cudaStream_t reader) {
    Part& part = parts_[current_];
    check(cudaEventRecord(part.done, stream_), "cudaEventRecord");
    check(cudaStreamWaitEvent(reader, part.done), "cudaStreamWaitEvent");
    current_ = 1 - current_;
  }
  void wait() { check(cudaStreamSynchronize(stream_), "copy of weights"); }
  [[nodiscard]] cudaStream_t stream() const { return stream_; }

 private:
  struct Part {
    Buffer memory;
    cudaEvent_t done = nullptr;
  };

  Uploader() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    for (Part& part : parts_) {
      check(cudaEventCreateWithFlags(&part.done, cudaEventDisableTiming), "cudaEventCreate");
    }
  }

  // The GPU may still read the memory.
  ~Uploader() {
    for (const Part& part : parts_) static_cast<void>(cudaEventSynchronize(part.done));
  }

  // Live as long as the thread; the driver takes stream and events back with the process.
  cudaStream_t stream_ = nullptr;
  std::array<Part, 2> parts_;
  std::size_t current_ = 0;
};

// Where a row tile of a group lies.
struct Tile {
  std::byte* codes;
  std::byte* scales;
};
Tile tile_of(const Weight& weight, const PackedLayout& l, std::int64_t group, std::int64_t tile) {
  return {weight.codes.data() + group * l.group_code_bytes + tile * l.tile_code_bytes,
          weight.scales.data() + group * l.group_scale_bytes + tile * l.tile_scale_bytes};
}

// Sixteen rows whose scales suit random codes of such a weight: products of about unit variance.
struct DummyTile {
  explicit DummyTile(const WeightShape& shape)
      : codes(static_cast<std::size_t>(kTileRows * shape.k * quant::format_row(shape.format).bits / 8)) {
    view = {.format = shape.format, .n = kTileRows, .k = shape.k, .grouping = shape.grouping};
    const auto count = static_cast<std::size_t>(kTileRows * view.num_groups());
    const float scale = sigma(shape) / rms(shape.format);
    switch (shape.format) {
      case WeightFormat::mxfp4:
        view.scale_dtype = DType::f8_e8m0;
        scales.assign(count, static_cast<std::byte>(127 + std::ilogb(scale)));
        break;
      case WeightFormat::nvfp4: {
        constexpr std::byte kOne{0x38};
        view.scale_dtype = DType::f8_e4m3;
        view.global_scale = scale;
        scales.assign(count, kOne);
        break;
      }
      default:
        scales.resize(count * sizeof(float));
        for (std::size_t i = 0; i < count; ++i)
          std::memcpy(scales.data() + i * sizeof(float), &scale, sizeof(float));
    }
    zeros.resize(shape.grouping.zero_points ? count : 0);
    if (shape.grouping.act_order) {
      for (std::int64_t i = 0; i < shape.k; ++i) {
        g_idx.push_back(static_cast<std::int32_t>(i / std::max<std::int64_t>(1, view.group_k())));
      }
    }
    view.codes = codes.data();
    view.scales = scales.data();
    view.zeros = zeros.empty() ? nullptr : zeros.data();
    view.g_idx = reinterpret_cast<const std::byte*>(g_idx.data());
  }

  static float sigma(const WeightShape& shape) { return 1.0F / std::sqrt(static_cast<float>(shape.k)); }
  // Of uniformly random codes (fp8: as dummy_code_bits makes them).
  static float rms(WeightFormat format) {
    switch (format) {
      case WeightFormat::mxfp4:
      case WeightFormat::nvfp4: return 2.93F;
      case WeightFormat::int4: return 4.64F;
      case WeightFormat::int8: return 73.9F;
      case WeightFormat::fp8: return 0.59F;
      default: return 1.0F;
    }
  }

  quant::MatrixView view;
  std::vector<std::byte> codes;
  std::vector<std::byte> scales;
  std::vector<std::byte> zeros;
  std::vector<std::int32_t> g_idx;
};

// Which bits of a code are random and which are set: 16- and 32-bit floats get the exponent of 1/sqrt(k).
RandomBits dummy_code_bits(const WeightShape& shape) {
  const int exponent = std::ilogb(DummyTile::sigma(shape));
  switch (shape.format) {
    case WeightFormat::f32: return {0x807FFFFFU, static_cast<std::uint32_t>(127 + exponent) << 23};
    case WeightFormat::f16:
      return {0x83FF83FFU, (static_cast<std::uint32_t>(15 + exponent) << 10) * 0x10001U};
    case WeightFormat::bf16:
      return {0x807F807FU, (static_cast<std::uint32_t>(127 + exponent) << 7) * 0x10001U};
    case WeightFormat::fp8: return {0xBFBFBFBFU, 0};  // exponent field at most 7: below 2, never NaN
    default: return {0xFFFFFFFFU, 0};
  }
}

constexpr std::int64_t kStagingBytes = std::int64_t{1} << 20;

std::int64_t tiles_at_once(const PackedLayout& l) {
  return std::max<std::int64_t>(
      1, kStagingBytes / std::max<std::int64_t>(1, l.tile_code_bytes + l.tile_scale_bytes));
}

}  // namespace

std::int64_t WeightPacker::strip_rows(const WeightShape& shape) {
  return tiles_at_once(packed_layout(shape)) * kTileRows;
}

Weight WeightPacker::allocate(const WeightShape& shape) const {
  const PackedLayout l = packed_layout(shape);
  Weight weight{
      .shape = shape,
      .codes = exec_->memory().allocate(static_cast<std::size_t>(shape.num_groups * l.group_code_bytes)),
      .scales = exec_->memory().allocate(static_cast<std::size_t>(shape.num_groups * l.group_scale_bytes)),
      .codes_group_bytes = l.group_code_bytes,
      .scales_group_bytes = l.group_scale_bytes};
  // Packing threads copy on streams of their own.
  check(cudaStreamSynchronize(exec_->stream()), "clearing of weights");
  return weight;
}

void WeightPacker::pack_rows(Weight& weight, std::int64_t group, std::int64_t row,
                             const quant::MatrixView& src, std::int64_t src_row, std::int64_t rows) {
  const PackedLayout l = packed_layout(weight.shape);
  if (weight.shape.grouping.act_order && row == 0) pack_permutation(weight, l, group, src);
  // Rows before the first whole tile and after the last are merged with what shares their tiles.
  std::int64_t done = 0;
  while (done < rows) {
    const std::int64_t at = row + done;
    const std::int64_t in_tile = at % kTileRows;
    const std::int64_t left = rows - done;
    if (in_tile != 0 || (left < kTileRows && at + left != weight.shape.n)) {
      const std::int64_t count = std::min<std::int64_t>(kTileRows - in_tile, left);
      merge_rows(weight, l, group, at, src, src_row + done, count);
      done += count;
      continue;
    }
    const std::int64_t count = at + left == weight.shape.n ? left : left / kTileRows * kTileRows;
    done += pack_tiles(weight, l, group, at, src, src_row + done, count);
  }
}

std::int64_t WeightPacker::pack_tiles(Weight& weight, const PackedLayout& l, std::int64_t group,
                                      std::int64_t row, const quant::MatrixView& src, std::int64_t src_row,
                                      std::int64_t rows) {
  const std::int64_t tiles = std::min((rows + kTileRows - 1) / kTileRows, tiles_at_once(l));
  const std::int64_t count = std::min(rows, tiles * kTileRows);
  Uploader& uploader = Uploader::of_this_thread();
  std::byte* const codes =
      uploader.staging(static_cast<std::size_t>(tiles * (l.tile_code_bytes + l.tile_scale_bytes)));
  std::byte* const scales = codes + tiles * l.tile_code_bytes;
  stage_tiles(weight.shape, src, src_row, count, codes, scales);
  const Tile to = tile_of(weight, l, group, row / kTileRows);
  launch_make_fragments({.format = static_cast<Format>(weight.shape.format),
                         .rows = codes,
                         .codes = to.codes,
                         .num_tiles = tiles,
                         .num_blocks = l.num_blocks},
                        uploader.stream());
  uploader.copy(to.scales, scales, static_cast<std::size_t>(tiles * l.tile_scale_bytes));
  uploader.hand_over(exec_->stream());
  return count;
}

void WeightPacker::pack_permutation(Weight& weight, const PackedLayout& l, std::int64_t group,
                                    const quant::MatrixView& src) {
  Uploader& uploader = Uploader::of_this_thread();
  std::byte* const permutation = uploader.staging(static_cast<std::size_t>(l.permutation_bytes));
  cuda::pack_permutation(weight.shape, src, permutation);
  uploader.copy(weight.scales.data() + group * l.group_scale_bytes + l.permutation_offset, permutation,
                static_cast<std::size_t>(l.permutation_bytes));
  uploader.hand_over(exec_->stream());
}

void WeightPacker::merge_rows(Weight& weight, const PackedLayout& l, std::int64_t group, std::int64_t row,
                              const quant::MatrixView& src, std::int64_t src_row, std::int64_t rows) {
  const auto scale_bytes = static_cast<std::size_t>(l.tile_scale_bytes);
  const std::int64_t first = row % kTileRows;
  const Tile tile = tile_of(weight, l, group, row / kTileRows);
  const std::lock_guard lock(mutex_);
  Uploader& uploader = Uploader::of_this_thread();
  std::byte* const codes = uploader.staging(static_cast<std::size_t>(l.tile_code_bytes) + scale_bytes);
  std::byte* const scales = codes + l.tile_code_bytes;
  stage_tile(weight.shape, src, src_row, rows, first, codes, scales);
  launch_make_fragments({.format = static_cast<Format>(weight.shape.format),
                         .rows = codes,
                         .codes = tile.codes,
                         .num_tiles = 1,
                         .num_blocks = l.num_blocks,
                         .row_mask = ((1U << rows) - 1U) << first},
                        uploader.stream());
  if (scale_bytes > 0) {
    std::vector<std::byte> merged(scale_bytes);
    check(cudaMemcpy(merged.data(), tile.scales, scale_bytes, cudaMemcpyDeviceToHost), "copy of weights");
    for (std::int64_t r = first; r < first + rows; ++r) {
      copy_row_scales(weight.shape, r, scales, merged.data());
    }
    std::ranges::copy(merged, scales);
    uploader.copy(tile.scales, scales, scale_bytes);
  }
  uploader.hand_over(exec_->stream());
  uploader.wait();  // the next rows of this tile may come on another thread
}

void WeightPacker::fill_dummy(Weight& weight, std::uint64_t seed) {
  const WeightShape& shape = weight.shape;
  const PackedLayout l = packed_layout(shape);
  fill_random(exec_->stream(), weight.codes.data(), weight.codes.size(), dummy_code_bits(shape), seed);
  check_launch("fill_random");
  if (l.group_scale_bytes == 0) return;
  const DummyTile dummy(shape);
  Uploader& uploader = Uploader::of_this_thread();
  std::byte* const codes = uploader.staging(static_cast<std::size_t>(l.tile_code_bytes + l.tile_scale_bytes));
  std::byte* const scales = codes + l.tile_code_bytes;
  stage_tiles(shape, dummy.view, 0, kTileRows, codes, scales);
  uploader.copy(weight.scales.data(), scales, static_cast<std::size_t>(l.tile_scale_bytes));
  uploader.hand_over(exec_->stream());
  repeat(exec_->stream(), weight.scales.data(), static_cast<std::size_t>(l.tile_scale_bytes),
         static_cast<std::size_t>(l.num_tiles));
  if (shape.grouping.act_order) pack_permutation(weight, l, 0, dummy.view);
  repeat(exec_->stream(), weight.scales.data(), static_cast<std::size_t>(l.group_scale_bytes),
         static_cast<std::size_t>(shape.num_groups));
  check(cudaStreamSynchronize(exec_->stream()), "filling with dummy weights");
}

}  // namespace nibble::kernels::cuda
