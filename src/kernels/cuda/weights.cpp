#include "kernels/cuda/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/check.h"
#include "kernels/cuda/check.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/layout.h"

namespace nibble::kernels::cuda {
namespace {

using quant::WeightFormat;

// Page-locked memory and a stream of one packing thread: copies of one thread run while others pack.
class Uploader {
 public:
  static Uploader& of_this_thread() {
    thread_local Uploader uploader;
    return uploader;
  }

  // At least so many bytes, free to be written.
  std::byte* staging(std::size_t bytes) {
    wait();
    if (bytes > staging_.size()) staging_ = allocate_pinned(bytes);
    return staging_.data();
  }
  void copy(std::byte* dst, const std::byte* src, std::size_t bytes) {
    if (bytes == 0) return;
    check(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, stream_), "copy of weights");
  }
  void wait() { check(cudaStreamSynchronize(stream_), "copy of weights"); }

 private:
  Uploader() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate"); }

  // Lives as long as its thread; the driver takes the stream back with the process.
  cudaStream_t stream_ = nullptr;
  Buffer staging_;
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

}  // namespace

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
      merge_rows(weight, group, at, src, src_row + done, count);
      done += count;
      continue;
    }
    const std::int64_t count = at + left == weight.shape.n ? left : left / kTileRows * kTileRows;
    done += pack_tiles_of(weight, l, group, at, src, src_row + done, count);
  }
}

std::int64_t WeightPacker::pack_tiles_of(Weight& weight, const PackedLayout& l, std::int64_t group,
                                         std::int64_t row, const quant::MatrixView& src, std::int64_t src_row,
                                         std::int64_t rows) {
  constexpr std::int64_t kStagingBytes = std::int64_t{4} << 20;
  const std::int64_t tile_bytes = l.tile_code_bytes + l.tile_scale_bytes;
  const std::int64_t tiles =
      std::min((rows + kTileRows - 1) / kTileRows, std::max<std::int64_t>(1, kStagingBytes / tile_bytes));
  const std::int64_t count = std::min(rows, tiles * kTileRows);
  Uploader& uploader = Uploader::of_this_thread();
  std::byte* const codes = uploader.staging(static_cast<std::size_t>(tiles * tile_bytes));
  std::byte* const scales = codes + tiles * l.tile_code_bytes;
  pack_tiles(weight.shape, src, src_row, count, codes, scales);
  const Tile to = tile_of(weight, l, group, row / kTileRows);
  uploader.copy(to.codes, codes, static_cast<std::size_t>(tiles * l.tile_code_bytes));
  uploader.copy(to.scales, scales, static_cast<std::size_t>(tiles * l.tile_scale_bytes));
  uploader.wait();
  return count;
}

void WeightPacker::pack_permutation(Weight& weight, const PackedLayout& l, std::int64_t group,
                                    const quant::MatrixView& src) {
  Uploader& uploader = Uploader::of_this_thread();
  std::byte* const permutation = uploader.staging(static_cast<std::size_t>(l.permutation_bytes));
  cuda::pack_permutation(weight.shape, src, permutation);
  uploader.copy(weight.scales.data() + group * l.group_scale_bytes + l.permutation_offset, permutation,
                static_cast<std::size_t>(l.permutation_bytes));
  uploader.wait();
}

// A row's bits in a tile are its own: what is there differs from a tile of padding in the rows that are
// there, what comes in the rows that come.
void WeightPacker::merge_rows(Weight& weight, std::int64_t group, std::int64_t row,
                              const quant::MatrixView& src, std::int64_t src_row, std::int64_t rows) {
  const PackedLayout l = packed_layout(weight.shape);
  const auto bytes = static_cast<std::size_t>(l.tile_code_bytes + l.tile_scale_bytes);
  std::vector<std::byte> padding(bytes);
  std::vector<std::byte> merged(bytes);
  const auto scales_of = [&](std::vector<std::byte>& tile) { return tile.data() + l.tile_code_bytes; };
  pack_tile(weight.shape, src, src_row, 0, 0, padding.data(), scales_of(padding));
  pack_tile(weight.shape, src, src_row, rows, row % kTileRows, merged.data(), scales_of(merged));

  const Tile tile = tile_of(weight, l, group, row / kTileRows);
  const std::lock_guard lock(mutex_);
  Uploader& uploader = Uploader::of_this_thread();
  if (!begun_.insert(tile.codes).second) {
    std::vector<std::byte> present(bytes);
    const auto fetch = [](std::byte* to, const std::byte* from, std::int64_t size) {
      if (size > 0)
        check(cudaMemcpy(to, from, static_cast<std::size_t>(size), cudaMemcpyDeviceToHost),
              "copy of weights");
    };
    fetch(present.data(), tile.codes, l.tile_code_bytes);
    fetch(scales_of(present), tile.scales, l.tile_scale_bytes);
    for (std::size_t i = 0; i < bytes; ++i) merged[i] ^= present[i] ^ padding[i];
  }
  std::byte* const staging = uploader.staging(bytes);
  std::ranges::copy(merged, staging);
  uploader.copy(tile.codes, staging, static_cast<std::size_t>(l.tile_code_bytes));
  uploader.copy(tile.scales, staging + l.tile_code_bytes, static_cast<std::size_t>(l.tile_scale_bytes));
  uploader.wait();
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
  pack_tiles(shape, dummy.view, 0, kTileRows, codes, scales);
  uploader.copy(weight.scales.data(), scales, static_cast<std::size_t>(l.tile_scale_bytes));
  uploader.wait();
  repeat(exec_->stream(), weight.scales.data(), static_cast<std::size_t>(l.tile_scale_bytes),
         static_cast<std::size_t>(l.num_tiles));
  if (shape.grouping.act_order) pack_permutation(weight, l, 0, dummy.view);
  repeat(exec_->stream(), weight.scales.data(), static_cast<std::size_t>(l.group_scale_bytes),
         static_cast<std::size_t>(shape.num_groups));
  check(cudaStreamSynchronize(exec_->stream()), "filling with dummy weights");
}

}  // namespace nibble::kernels::cuda
