#include "kernels/cpu/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "kernels/cpu/layout.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/table.h"
#include "kernels/cpu/tier.h"
#include "kernels/ref/ops.h"

namespace nibble::kernels::cpu {
namespace {

std::size_t slab_bytes(std::span<const WeightShape> shapes) {
  std::size_t bytes = 0;
  for (const WeightShape& shape : shapes) {
    const PanelLayout l = panel_layout(shape);
    bytes += BufferSlab::share(static_cast<std::size_t>(shape.num_groups * l.group_code_bytes));
    bytes += BufferSlab::share(static_cast<std::size_t>(shape.num_groups * l.group_scale_bytes));
  }
  return bytes;
}

Weight make_weight(const WeightShape& shape, BufferSlab& slab) {
  const PanelLayout l = panel_layout(shape);
  Weight w{
      .shape = shape, .codes_group_bytes = l.group_code_bytes, .scales_group_bytes = l.group_scale_bytes};
  w.codes = slab.take(static_cast<std::size_t>(shape.num_groups * l.group_code_bytes));
  w.scales = slab.take(static_cast<std::size_t>(shape.num_groups * l.group_scale_bytes));
  // Rows that only pad the last panel must have ordinary scales: 2^-127 (byte 0) is subnormal, and
  // arithmetic on subnormals is slow.
  if (shape.format == quant::WeightFormat::mxfp4 && shape.n % kPanelRows != 0) {
    std::memset(w.scales.data(), 127, w.scales.size());
  }
  return w;
}

class CpuDevice final : public Device {
 public:
  CpuDevice(CpuIsa isa, int num_threads, bool reference_moe)
      : isa_(isa), num_threads_(num_threads), table_(cpu::table(isa)), exec_(num_threads) {
    if (reference_moe) table_.fused_moe = ref::fused_moe;
    if (const Tier* tier = find_tier(isa)) pack_panel_ = tier->pack_panel;
  }

  [[nodiscard]] std::string description() const override {
    return fmt::format("CPU {} ({}), {} thread{}", isa_name(isa_), cpu_info().model_name, num_threads_,
                       num_threads_ == 1 ? "" : "s");
  }
  [[nodiscard]] const KernelTable& table() const override { return table_; }
  [[nodiscard]] Exec& exec() override { return exec_; }

  [[nodiscard]] std::string operand_name() const override {
    return fmt::format("{} ({})", isa_ == CpuIsa::avx512_bf16 ? "bf16" : "f32", isa_name(isa_));
  }

  [[nodiscard]] std::size_t weight_bytes(const WeightShape& shape) const override {
    const PanelLayout l = panel_layout(shape);
    return static_cast<std::size_t>(shape.num_groups * (l.group_code_bytes + l.group_scale_bytes));
  }

  [[nodiscard]] Result<std::vector<Weight>> allocate_weights(
      std::span<const WeightShape> shapes) const override {
    std::vector<Weight> weights;
    std::size_t done = 0;
    try {
      BufferSlab slab(slab_bytes(shapes));
      for (; done < shapes.size(); ++done) weights.push_back(make_weight(shapes[done], slab));
    } catch (const std::bad_alloc&) {
      const WeightShape& shape = shapes[std::min(done, shapes.size() - 1)];
      return out_of_memory(fmt::format("no memory for a packed weight of {} bytes ({} x [{}, {}] {})",
                                       weight_bytes(shape), shape.num_groups, shape.n, shape.k,
                                       quant::format_name(shape.format)));
    }
    return weights;
  }

  void pack_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
                 std::int64_t src_row, std::int64_t rows) override {
    cpu::pack_rows(weight, group, row, src, src_row, rows, pack_panel_);
  }

  void fill_dummy(Weight& weight, std::uint64_t seed) override {
    cpu::fill_dummy(weight, seed, exec_.threads());
  }

 private:
  CpuIsa isa_;
  int num_threads_;
  KernelTable table_;
  PackPanel pack_panel_ = nullptr;
  Exec exec_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(CpuIsa isa, int num_threads, bool reference_moe) {
  return std::make_unique<CpuDevice>(isa, num_threads, reference_moe);
}

}  // namespace nibble::kernels::cpu
