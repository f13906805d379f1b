// Counting a decode step's launches, with a backend that counts the rows it is called for.
#include "engine/decode_nodes.h"

#include <gtest/gtest.h>

#include "kernels/device.h"
#include "models/registry.h"
#include "tests/support/paths.h"

namespace nibble::engine {
namespace {

std::size_t num_calls = 0;

// Records every call of its table's rows, and runs none.
class CountingExec final : public kernels::Exec {
 public:
  CountingExec() : Exec(1) {}
  void rehearse(const std::function<void()>& launch) override {
    num_calls = 0;
    launch();
  }
  [[nodiscard]] std::size_t num_rehearsed() const override { return num_calls; }
};

struct Counting {
  Counting() {
    auto made = kernels::make_device({.kind = DeviceKind::cpu, .num_threads = 1});
    device = std::move(made).value();
    auto planned =
        models::plan_model({.dir = ::nibble::testing::test_data("golden") / "v3-tiny-nvfp4"}, *device);
    plan = std::move(planned).value();
    table.embed = [](kernels::Exec&, const kernels::EmbedArgs&) { ++num_calls; };
    table.mla_absorbed = [](kernels::Exec&, const kernels::MlaAbsorbedArgs&) { ++num_calls; };
    table.topk_gate = [](kernels::Exec&, const kernels::TopkGateArgs&) { ++num_calls; };
  }
  std::unique_ptr<kernels::Device> device;
  models::ModelPlan plan;
  kernels::KernelTable table = kernels::counting_kernels();
};

TEST(DecodeNodes, AreCountedByLayer) {
  const Counting counting;
  CountingExec exec;
  const DecodeNodes nodes = count_decode_nodes(*counting.plan.shape, {counting.table, exec}, {});
  const auto num_layers = static_cast<std::size_t>(counting.plan.shape->info().num_layers);
  ASSERT_EQ(nodes.per_layer.size(), num_layers);
  EXPECT_EQ(nodes.per_layer.front(), 1U) << "a dense layer: attention";
  EXPECT_EQ(nodes.per_layer.back(), 2U) << "a layer of experts: attention and routing";
  std::size_t in_layers = 0;
  for (const std::size_t n : nodes.per_layer) in_layers += n;
  EXPECT_EQ(nodes.total, in_layers + 1) << "and the embedding";
}

TEST(DecodeNodes, AreNoneWhereNothingIsRecorded) {
  const Counting counting;
  kernels::Exec exec(1);
  const DecodeNodes nodes = count_decode_nodes(*counting.plan.shape, {counting.table, exec}, {});
  EXPECT_EQ(nodes.total, 0U);
  EXPECT_TRUE(nodes.per_layer.empty());
}

}  // namespace
}  // namespace nibble::engine
