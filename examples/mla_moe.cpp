// The attention and the mixture of experts of one decoder layer, driven by hand: a prompt, then tokens one by
// one, for two sequences in one ragged batch. Prints how far each output is from the definition computed in
// double.
//
//   example_mla_moe [--device cpu|cuda]
//
// Exit status 0 if all errors are within what rounding to bf16 explains.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "nibble/modules.h"

namespace {

constexpr std::int32_t kHidden = 256;
constexpr double kErrorBound = 0.05;  // in units of a row's rms

std::vector<float> random_rows(std::int32_t rows, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(rows) * kHidden);
  for (float& value : values) value = normal(random);
  return values;
}

// Largest difference in units of the expected values' root mean square.
double error_of(std::span<const float> actual, std::span<const double> expected) {
  double largest = 0;
  double squares = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    largest = std::max(largest, std::abs(static_cast<double>(actual[i]) - expected[i]));
    squares += expected[i] * expected[i];
  }
  return largest / std::sqrt(squares / static_cast<double>(actual.size()));
}

nibble::Status report(const char* what, double error) {
  std::printf("%-28s error %.1e of the rms\n", what, error);
  if (error <= kErrorBound) return {};
  return nibble::runtime_error("the error is larger than rounding explains");
}

nibble::Status run_attention(const std::shared_ptr<nibble::ModuleDevice>& device) {
  const nibble::MlaModuleConfig config{.hidden_size = kHidden,
                                       .num_heads = 8,
                                       .q_lora_rank = 128,
                                       .kv_lora_rank = 128,
                                       .qk_nope_head_dim = 32,
                                       .qk_rope_head_dim = 16,
                                       .v_head_dim = 32,
                                       .scheme = "mxfp4",
                                       .max_sequences = 2,
                                       .max_length = 128};
  NIB_TRY(const auto mla, nibble::MlaModule::create_dummy(device, config, 1));
  NIB_TRY(const nibble::SequenceId a, mla->add_sequence());
  NIB_TRY(const nibble::SequenceId b, mla->add_sequence());

  // A prompt of 40 tokens beside one of 3.
  const std::vector<float> prompts = random_rows(43, 1);
  std::vector<float> y(prompts.size());
  const nibble::MlaChunk prefill[] = {{a, 40}, {b, 3}};
  NIB_TRY_STATUS(mla->forward_host(prefill, prompts, y));
  std::vector<float> history(prompts.begin() + 40 * kHidden, prompts.end());  // of sequence b
  NIB_TRY(const std::vector<double> prompt, mla->reference(history, 3));
  NIB_TRY_STATUS(report("attention, prompt", error_of(std::span(y).subspan(40 * kHidden), prompt)));

  // Ten tokens of each, outputs fed back, in the device's memory: nothing waits until the download.
  const std::vector<float> first = random_rows(2, 2);
  const std::size_t bytes = first.size() * sizeof(float);
  NIB_TRY(const nibble::DeviceArray x, device->allocate(bytes));
  NIB_TRY_STATUS(device->upload(x.data(), first.data(), bytes));
  const nibble::MlaChunk decode[] = {{a, 1}, {b, 1}};
  std::vector<float> rows(first.size());
  for (int step = 0; step < 10; ++step) {
    NIB_TRY_STATUS(device->download(rows.data(), x.data(), bytes));  // for the check alone
    history.insert(history.end(), rows.begin() + kHidden, rows.end());
    NIB_TRY_STATUS(mla->forward(decode, x.f32(), x.f32()));
  }
  NIB_TRY_STATUS(device->download(rows.data(), x.data(), bytes));
  NIB_TRY(const std::vector<double> last, mla->reference(history, 1));
  return report("attention, tenth token", error_of(std::span(rows).subspan(kHidden), last));
}

nibble::Status run_experts(const std::shared_ptr<nibble::ModuleDevice>& device) {
  const nibble::MoeModuleConfig config{.hidden_size = kHidden,
                                       .intermediate_size = 128,
                                       .num_experts = 16,
                                       .experts_per_token = 2,
                                       .scheme = "mxfp4"};
  NIB_TRY(const auto moe, nibble::MoeModule::create_dummy(device, config, 2));
  constexpr std::int32_t kTokens = 4;
  const std::vector<float> x = random_rows(kTokens, 3);
  const std::vector<std::int32_t> ids{0, 5, 5, 15, 2, 3, 7, -1};  // -1: an expert that is elsewhere
  const std::vector<float> weights{0.7F, 0.3F, 0.5F, 0.5F, 0.9F, 0.1F, 1.0F, 0.0F};
  std::vector<float> y(x.size(), 0.0F);
  NIB_TRY_STATUS(moe->forward_add_host(x, ids, weights, y));
  NIB_TRY(const std::vector<double> expected, moe->reference(x, ids, weights));
  return report("experts, four tokens", error_of(y, expected));
}

nibble::Status run(const char* name) {
  NIB_TRY(const auto device, nibble::ModuleDevice::open({.device = name}));
  std::printf("on %s\n", device->description().c_str());
  NIB_TRY_STATUS(run_attention(device));
  return run_experts(device);
}

}  // namespace

int main(int argc, char** argv) {
  const bool has_device = argc == 3 && std::strcmp(argv[1], "--device") == 0;
  if (argc != 1 && !has_device) {
    std::fprintf(stderr, "usage: %s [--device cpu|cuda]\n", argv[0]);
    return 2;
  }
  const nibble::Status status = run(has_device ? argv[2] : "auto");
  if (status.ok()) return 0;
  std::fprintf(stderr, "error: %s\n", status.error().message.c_str());
  return static_cast<int>(status.error().code);
}
