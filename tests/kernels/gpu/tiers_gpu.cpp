// The one tier of the GPU tests: the CUDA table with every op waited for.
#include <cstring>
#include <map>
#include <stdexcept>

#include "tests/kernels/tiers.h"

namespace nibble::kernels::testing {
namespace {

KernelTable& cuda_table() {
  static KernelTable table;
  return table;
}

// The row, then a wait: tests read results at once.
template <auto Row, class Args>
void waited(Exec& exec, const Args& args) {
  (cuda_table().*Row)(exec, args);
  exec.memory().download({}, nullptr);
}

class WaitingDevice final : public Device {
 public:
  explicit WaitingDevice(std::unique_ptr<Device> device) : device_(std::move(device)) {
    cuda_table() = device_->table();
    wrap<&KernelTable::embed>();
    wrap<&KernelTable::linear>();
    wrap<&KernelTable::linear_pair>();
    wrap<&KernelTable::gated_linear>();
    wrap<&KernelTable::head_linear>();
    wrap<&KernelTable::head_linear_transposed>();
    wrap<&KernelTable::rms_norm>();
    wrap<&KernelTable::add>();
    wrap<&KernelTable::quantize_activation>();
    wrap<&KernelTable::rope>();
    wrap<&KernelTable::cache_write>();
    wrap<&KernelTable::cache_gather>();
    wrap<&KernelTable::mla_absorbed>();
    wrap<&KernelTable::mha>();
    wrap<&KernelTable::topk_gate>();
    wrap<&KernelTable::fused_moe>();
    wrap<&KernelTable::sample>();
    table_.rebuilt = cuda_table().rebuilt;
    table_.quantizes_inputs = cuda_table().quantizes_inputs;
    table_.takes_shared_experts = cuda_table().takes_shared_experts;
  }

  [[nodiscard]] std::string description() const override { return device_->description(); }
  [[nodiscard]] const KernelTable& table() const override { return table_; }
  [[nodiscard]] Exec& exec() override { return device_->exec(); }
  [[nodiscard]] std::string operand_name() const override { return device_->operand_name(); }
  [[nodiscard]] std::size_t weight_bytes(const WeightShape& shape) const override {
    return device_->weight_bytes(shape);
  }
  [[nodiscard]] Result<std::vector<Weight>> allocate_weights(
      std::span<const WeightShape> shapes) const override {
    return device_->allocate_weights(shapes);
  }
  void pack_rows(Weight& weight, std::int64_t group, std::int64_t row, const quant::MatrixView& src,
                 std::int64_t src_row, std::int64_t rows) override {
    device_->pack_rows(weight, group, row, src, src_row, rows);
  }
  void fill_dummy(Weight& weight, std::uint64_t seed) override { device_->fill_dummy(weight, seed); }

 private:
  template <auto Row>
  void wrap() {
    wrap_as<Row>(table_.*Row);
  }
  template <auto Row, class Args>
  void wrap_as(void (*&row)(Exec&, const Args&)) {
    row = waited<Row, Args>;
  }

  std::unique_ptr<Device> device_;
  KernelTable table_;
};

}  // namespace

std::vector<TierCase> available_tiers() {
  if (cuda_devices().names.empty()) return {};
  return {{.name = "cuda", .isa = "", .bf16_products = true, .gpu = true}};
}

Device& device_of(const TierCase& /*tier*/, int /*num_threads*/) {
  static const std::unique_ptr<Device> device = [] {
    auto made = make_device({.kind = DeviceKind::cuda, .num_threads = 2});
    if (!made) throw std::runtime_error(made.error().message);
    return std::make_unique<WaitingDevice>(std::move(made).value());
  }();
  return *device;
}

}  // namespace nibble::kernels::testing
