#include "kernels/cpu/device.h"

#include <fmt/format.h>

#include <cstring>
#include <new>

#include "kernels/cpu/layout.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/table.h"

namespace nibble::kernels::cpu {
namespace {

class CpuDevice final : public Device {
 public:
  CpuDevice(CpuIsa isa, int num_threads)
      : isa_(isa), num_threads_(num_threads), table_(cpu::table(isa)), exec_(num_threads) {}

  [[nodiscard]] std::string description() const override {
    return fmt::format("CPU {} ({}), {} thread{}", isa_name(isa_), cpu_info().model_name, num_threads_,
                       num_threads_ == 1 ? "" : "s");
  }
  [[nodiscard]] const KernelTable& table() const override { return table_; }
  [[nodiscard]] Exec& exec() override { return exec_; }

  [[nodiscard]] std::size_t weight_bytes(const WeightShape& shape) const override {
    const PanelLayout l = panel_layout(shape);
    return static_cast<std::size_t>(shape.num_groups * (l.group_code_bytes + l.group_scale_bytes));
  }

  [[nodiscard]] Result<Weight> allocate_weight(const WeightShape& shape) const override {
    const PanelLayout l = panel_layout(shape);
    Weight w{
        .shape = shape, .codes_group_bytes = l.group_code_bytes, .scales_group_bytes = l.group_scale_bytes};
    try {
      w.codes = Buffer(static_cast<std::size_t>(shape.num_groups * l.group_code_bytes));
      w.scales = Buffer(static_cast<std::size_t>(shape.num_groups * l.group_scale_bytes));
    } catch (const std::bad_alloc&) {
      return out_of_memory(fmt::format("no memory for a packed weight of {} bytes ({} x [{}, {}] {})",
                                       weight_bytes(shape), shape.num_groups, shape.n, shape.k,
                                       quant::format_name(shape.format)));
    }
    // Rows that only pad the last panel must have ordinary scales: 2^-127 (byte 0) is subnormal, and
    // arithmetic on subnormals is slow.
    if (shape.format == quant::WeightFormat::mxfp4 && shape.n % kPanelRows != 0) {
      std::memset(w.scales.data(), 127, w.scales.size());
    }
    return w;
  }

  void pack_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
                 std::int64_t src_row, std::int64_t rows) override {
    cpu::pack_rows(weight, group, row, src, src_row, rows);
  }

  void fill_dummy(Weight& weight, std::uint64_t seed) override {
    cpu::fill_dummy(weight, seed, exec_.threads());
  }

 private:
  CpuIsa isa_;
  int num_threads_;
  KernelTable table_;
  Exec exec_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(CpuIsa isa, int num_threads) {
  return std::make_unique<CpuDevice>(isa, num_threads);
}

}  // namespace nibble::kernels::cpu
