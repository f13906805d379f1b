// MlaModule: any mix of chunks against the definition, sequences that come and go, errors.
#include "nibble/modules/mla.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/modules/support.h"

namespace nibble::testing {
namespace {

constexpr std::size_t kHidden = 96;

MlaModuleConfig small(std::string scheme = "bf16", std::int64_t q_lora_rank = 64) {
  return {
      .hidden_size = kHidden,
      .num_heads = 4,
      .q_lora_rank = q_lora_rank,
      .kv_lora_rank = 64,
      .qk_nope_head_dim = 32,
      .qk_rope_head_dim = 16,
      .v_head_dim = 32,
      .yarn =
          YarnScaling{
              .factor = 4.0, .mscale = 1.0, .mscale_all_dim = 1.0, .original_max_position_embeddings = 16},
      .scheme = std::move(scheme),
      .page_size = 8,
      .max_sequences = 5,
      .max_length = 64,
      .max_tokens = 96};
}

class Mla : public OnPlace {
 protected:
  std::unique_ptr<MlaModule> dummy(const MlaModuleConfig& config) {
    auto made = MlaModule::create_dummy(device, config, 7);
    EXPECT_TRUE(made.ok()) << made.error().message;
    return std::move(made).value();
  }
};

// What a sequence was fed and what came out.
struct History {
  SequenceId id = 0;
  std::vector<float> x;
  std::vector<float> y;
};

void run_step(MlaModule& mla, Random& random, std::vector<History>& all,
              const std::vector<std::pair<std::size_t, std::int32_t>>& parts) {
  std::vector<MlaChunk> chunks;
  std::vector<float> x;
  for (const auto& [s, count] : parts) {
    chunks.push_back({all[s].id, count});
    const std::vector<float> rows = random.floats(count * static_cast<std::int64_t>(kHidden));
    all[s].x.insert(all[s].x.end(), rows.begin(), rows.end());
    x.insert(x.end(), rows.begin(), rows.end());
  }
  std::vector<float> y(x.size());
  const Status status = mla.forward_host(chunks, x, y);
  ASSERT_TRUE(status.ok()) << status.error().message;
  auto row = y.begin();
  for (const auto& [s, count] : parts) {
    const auto end = row + count * static_cast<std::int64_t>(kHidden);
    all[s].y.insert(all[s].y.end(), row, end);
    row = end;
  }
}

TEST_P(Mla, ARaggedMixIsTheDefinition) {
  for (const std::string scheme : {"bf16", "mxfp4", "fp8", "int8_w8a8"}) {
    for (const std::int64_t q_lora_rank : {0, 64}) {
      for (const MlaMode mode : {MlaMode::automatic, MlaMode::absorb}) {
        MlaModuleConfig config = small(scheme, q_lora_rank);
        config.mode = mode;
        const auto mla = dummy(config);
        Random random(3);
        std::vector<History> all(4);
        for (History& h : all) h.id = mla->add_sequence().value();
        run_step(*mla, random, all, {{0, 20}, {1, 1}, {2, 33}});
        run_step(*mla, random, all, {{1, 1}, {0, 1}, {3, 9}, {2, 12}});  // decodes before chunks
        for (int i = 0; i < 3; ++i) run_step(*mla, random, all, {{0, 1}, {1, 1}, {2, 1}, {3, 1}});
        // Values that were quantised to eight bits land on another code where sums differ a little.
        const double tolerance = scheme == "int8_w8a8" ? 0.1 : GetParam().error;
        for (const History& h : all) {
          const auto rows = static_cast<std::int32_t>(h.x.size() / kHidden);
          EXPECT_EQ(mla->length(h.id).value(), rows);
          const std::vector<double> want = mla->reference(h.x, rows).value();
          EXPECT_LE(row_error(h.y, want, kHidden), tolerance)
              << scheme << ", q_lora_rank " << q_lora_rank << ", sequence " << h.id;
        }
      }
    }
  }
}

TEST_P(Mla, CacheDtypes) {
  for (const std::string dtype : {"f32", "bf16", "fp8", "fp8_e5m2"}) {
    MlaModuleConfig config = small();
    config.cache_dtype = dtype;
    const auto mla = dummy(config);
    Random random(4);
    std::vector<History> all(1);
    all[0].id = mla->add_sequence().value();
    run_step(*mla, random, all, {{0, 30}});
    for (int i = 0; i < 2; ++i) run_step(*mla, random, all, {{0, 1}});
    const std::vector<double> want = mla->reference(all[0].x, 32).value();
    // A latent near the middle of two codes takes the other one where sums differ a little; the first rows
    // attend to few entries, so that nothing averages it out. Steps are 2^-3 and 2^-2 of a value.
    double tolerance = GetParam().error;
    if (dtype == "fp8") tolerance = std::max(0.05, 4 * tolerance);
    if (dtype == "fp8_e5m2") tolerance = std::max(0.1, 6 * tolerance);
    EXPECT_LE(row_error(all[0].y, want, kHidden), tolerance) << dtype;
  }
}

TEST_P(Mla, AMixIsTheSameAsOneAtATime) {
  const auto together = dummy(small());
  const auto alone = dummy(small());
  Random random(5);
  Random again(5);
  std::vector<History> a(3);
  std::vector<History> b(3);
  for (std::size_t i = 0; i < 3; ++i) {
    a[i].id = together->add_sequence().value();
    b[i].id = alone->add_sequence().value();
  }
  run_step(*together, random, a, {{0, 17}, {1, 5}, {2, 1}});
  run_step(*together, random, a, {{0, 1}, {1, 11}, {2, 1}});
  for (const auto& part :
       std::vector<std::pair<std::size_t, std::int32_t>>{{0, 17}, {1, 5}, {2, 1}, {0, 1}, {1, 11}, {2, 1}}) {
    run_step(*alone, again, b, {part});
  }
  for (std::size_t i = 0; i < 3; ++i) {
    ASSERT_EQ(a[i].x, b[i].x);
    EXPECT_LE(row_error(a[i].y, b[i].y, kHidden), GetParam().error);
  }
}

TEST_P(Mla, DecodeStepsQueueAndReplayInPlace) {
  const auto mla = dummy(small());
  constexpr std::size_t kSeqs = 3;
  Random random(6);
  std::vector<History> all(kSeqs);
  std::vector<MlaChunk> chunks;
  for (History& h : all) {
    h.id = mla->add_sequence().value();
    chunks.push_back({h.id, 1});
  }
  run_step(*mla, random, all, {{0, 4}, {1, 9}, {2, 2}});
  // The outputs of a step are the inputs of the next; nothing waits, and steps are replayed where they can
  // be.
  constexpr int kSteps = 40;
  std::vector<float> x = random.floats(kSeqs * kHidden);
  const DeviceArray xy = place(x);
  std::vector<std::vector<float>> inputs;
  for (int i = 0; i < kSteps; ++i) ASSERT_TRUE(mla->forward(chunks, xy.f32(), xy.f32()).ok());
  const std::vector<float> queued = fetch(xy);
  for (std::size_t s = 0; s < kSeqs; ++s) {
    ASSERT_TRUE(mla->truncate(all[s].id, static_cast<std::int32_t>(all[s].x.size() / kHidden)).ok());
  }
  for (int i = 0; i < kSteps; ++i) {
    for (std::size_t s = 0; s < kSeqs; ++s) {
      const auto row = x.begin() + static_cast<std::ptrdiff_t>(s * kHidden);
      all[s].x.insert(all[s].x.end(), row, row + kHidden);
    }
    std::vector<float> y(x.size());
    ASSERT_TRUE(mla->forward_host(chunks, x, y).ok());
    x = y;
  }
  EXPECT_LE(row_error(queued, x, kHidden), 1e-3);
  for (std::size_t s = 0; s < kSeqs; ++s) {
    const std::vector<double> want = mla->reference(all[s].x, 1).value();
    EXPECT_LE(row_error({x.data() + s * kHidden, kHidden}, want, kHidden), GetParam().error);
  }
}

TEST_P(Mla, AttentionAlone) {
  const auto mla = dummy(small());
  const SequenceId id = mla->add_sequence().value();
  constexpr std::int32_t kTokens = 21;
  Random random(8);
  const std::vector<float> latent = random.floats(kTokens * 64);
  const std::vector<float> k_pe = random.floats(kTokens * 16);
  const DeviceArray latent_there = place(latent);
  const DeviceArray k_pe_there = place(k_pe);
  ASSERT_TRUE(mla->append_entries(id, kTokens, latent_there.f32(), k_pe_there.f32()).ok());
  EXPECT_EQ(mla->length(id).value(), kTokens);

  const MlaChunk chunk{id, 2};
  AttentionPlan plan = mla->plan_attention({&chunk, 1}).value();
  const std::vector<float> q = random.floats(2 * 4 * 64);
  const std::vector<float> q_pe = random.floats(2 * 4 * 16);
  const DeviceArray q_there = place(q);
  const DeviceArray q_pe_there = place(q_pe);
  const DeviceArray o_there = device->allocate(q.size() * sizeof(float)).value();
  for (int i = 0; i < 3; ++i) {  // the third time from the recording, where there are any
    ASSERT_TRUE(device
                    ->run_recorded(
                        9, [&] { return mla->attend(plan, q_there.f32(), q_pe_there.f32(), o_there.f32()); })
                    .ok());
  }
  // YaRN's factor: (0.1 ln 4 + 1)^2.
  const double m = 0.1 * std::log(4.0) + 1.0;
  const double scale = m * m / std::sqrt(48.0);
  std::vector<double> want;
  for (std::size_t t = 0; t < 2; ++t) {
    for (std::size_t h = 0; h < 4; ++h) {
      std::vector<double> p;
      for (std::size_t s = 0; s < kTokens - 1 + t; ++s) {
        double score = 0;
        for (std::size_t i = 0; i < 64; ++i)
          score += static_cast<double>(q[(t * 4 + h) * 64 + i]) * static_cast<double>(latent[s * 64 + i]);
        for (std::size_t i = 0; i < 16; ++i)
          score += static_cast<double>(q_pe[(t * 4 + h) * 16 + i]) * static_cast<double>(k_pe[s * 16 + i]);
        p.push_back(std::exp(scale * score));
      }
      const double sum = std::accumulate(p.begin(), p.end(), 0.0);
      for (std::size_t i = 0; i < 64; ++i) {
        double o = 0;
        for (std::size_t s = 0; s < p.size(); ++s) o += p[s] / sum * static_cast<double>(latent[s * 64 + i]);
        want.push_back(o);
      }
    }
  }
  EXPECT_LE(row_error(fetch(o_there), want, 64), GetParam().error);
}

TEST_P(Mla, GivenWeightsAreTheOnesUsed) {
  // Encoded in a format that holds them exactly, weights come out of the definition as they went in: with
  // w_uv = 0 everything is 0, and with the query 0 the attention is the mean of the values.
  MlaModuleConfig config = small("f32", 0);
  config.yarn.reset();
  config.cache_dtype = "f32";
  Random random(9);
  const std::vector<float> zeros_q(4 * 48 * kHidden, 0.0F);
  const std::vector<float> kv_a = random.floats(80 * kHidden);
  const std::vector<float> kv_b = random.floats(4 * 64 * 64);
  const std::vector<float> o = random.floats(kHidden * 128);
  const std::vector<float> norm = random.floats(64, 0.5F, 2.0F);
  MlaWeights weights;
  weights.q_proj = HostMatrix(zeros_q, 4 * 48, kHidden);
  weights.kv_a_proj_with_mqa = HostMatrix(kv_a, 80, kHidden);
  weights.kv_a_layernorm = norm;
  weights.kv_b_proj = HostMatrix(kv_b, 4 * 64, 64);
  weights.o_proj = HostMatrix(o, kHidden, 128);
  auto made = MlaModule::create(device, config, weights);
  ASSERT_TRUE(made.ok()) << made.error().message;
  const SequenceId id = (*made)->add_sequence().value();
  constexpr std::size_t kTokens = 5;
  const std::vector<float> x = random.floats(kTokens * kHidden);
  std::vector<float> y(x.size());
  const MlaChunk chunk{id, kTokens};
  ASSERT_TRUE((*made)->forward_host({&chunk, 1}, x, y).ok());

  std::vector<double> mean(64, 0.0);
  std::vector<double> want;
  for (std::size_t t = 0; t < kTokens; ++t) {
    std::vector<double> latent(64);
    double squares = 0;
    for (std::size_t r = 0; r < 64; ++r) {
      for (std::size_t i = 0; i < kHidden; ++i)
        latent[r] += static_cast<double>(kv_a[r * kHidden + i]) * static_cast<double>(x[t * kHidden + i]);
      squares += latent[r] * latent[r];
    }
    for (std::size_t r = 0; r < 64; ++r) {
      mean[r] += latent[r] / std::sqrt(squares / 64 + 1e-6) * static_cast<double>(norm[r]);
    }
    std::vector<double> heads;
    for (std::size_t h = 0; h < 4; ++h) {
      for (std::size_t v = 0; v < 32; ++v) {
        double value = 0;
        for (std::size_t i = 0; i < 64; ++i)
          value +=
              static_cast<double>(kv_b[(h * 64 + 32 + v) * 64 + i]) * mean[i] / static_cast<double>(t + 1);
        heads.push_back(value);
      }
    }
    for (std::size_t row = 0; row < kHidden; ++row) {
      double value = 0;
      for (std::size_t i = 0; i < 128; ++i) value += static_cast<double>(o[row * 128 + i]) * heads[i];
      want.push_back(value);
    }
  }
  EXPECT_LE(row_error(y, want, kHidden), GetParam().error);
  EXPECT_LE(row_error(y, (*made)->reference(x, kTokens).value(), kHidden), GetParam().error);
}

TEST_P(Mla, SequencesComeAndGo) {
  MlaModuleConfig config = small();
  config.cache_tokens = 40;  // five pages
  const auto mla = dummy(config);
  const SequenceId a = mla->add_sequence().value();
  const SequenceId b = mla->add_sequence().value();
  std::vector<float> x(96 * kHidden, 0.5F);
  std::vector<float> y(x.size());
  const auto run = [&](SequenceId id, std::int32_t count) {
    const MlaChunk chunk{id, count};
    const std::size_t values = static_cast<std::size_t>(std::max(count, 0)) * kHidden;
    return mla->forward_host({&chunk, 1}, {x.data(), values}, {y.data(), values});
  };
  ASSERT_TRUE(run(a, 30).ok());
  expect_error(run(b, 9), ErrorCode::out_of_memory, "pages");
  EXPECT_EQ(mla->length(b).value(), 0);
  ASSERT_TRUE(run(b, 8).ok());
  ASSERT_TRUE(mla->truncate(a, 8).ok());
  ASSERT_TRUE(run(b, 24).ok());
  expect_error(run(a, 1), ErrorCode::out_of_memory, "pages");
  ASSERT_TRUE(mla->free_sequence(b).ok());
  ASSERT_TRUE(run(a, 32).ok());
  EXPECT_EQ(mla->length(a).value(), 40);
  expect_error(mla->length(b), ErrorCode::bad_input, "no sequence");
  expect_error(mla->free_sequence(b), ErrorCode::bad_input, "no sequence");
  expect_error(run(b, 1), ErrorCode::bad_input, "no sequence");
}

TEST_P(Mla, WrongStepsAreRefusedAndChangeNothing) {
  const auto mla = dummy(small());
  const SequenceId a = mla->add_sequence().value();
  std::vector<float> x(200 * kHidden, 0.5F);
  std::vector<float> y(x.size());
  const auto run = [&](std::vector<MlaChunk> chunks, std::size_t tokens) {
    return mla->forward_host(chunks, {x.data(), tokens * kHidden}, {y.data(), tokens * kHidden});
  };
  expect_error(run({{a, 97}}, 97), ErrorCode::bad_input, "max_tokens = 96");
  expect_error(run({{a, 65}}, 65), ErrorCode::bad_input, "max_length is 64");
  expect_error(run({{a, 1}, {a, 1}}, 2), ErrorCode::bad_input, "twice");
  expect_error(run({{a, 0}}, 0), ErrorCode::bad_input, "at least one");
  expect_error(run({{a, -3}}, 0), ErrorCode::bad_input, "at least one");
  expect_error(run({{a, 2}}, 1), ErrorCode::bad_input, "2 tokens");
  expect_error(run({{a + 1, 1}}, 1), ErrorCode::bad_input, "no sequence");
  const MlaChunk one{a, 1};
  expect_error(mla->forward({&one, 1}, nullptr, y.data()), ErrorCode::bad_input, "null");
  EXPECT_EQ(mla->length(a).value(), 0);
  EXPECT_TRUE(run({}, 0).ok());
  expect_error(mla->truncate(a, 1), ErrorCode::bad_input, "cannot be shortened");
  expect_error(mla->plan_attention({&one, 1}), ErrorCode::bad_input, "which has 0 tokens");
  expect_error(device->run_recorded(5,
                                    [&] {
                                      return mla->forward({&one, 1}, x.data(), y.data());
                                    }),
               ErrorCode::bad_input, "recording");
  for (int i = 1; i < 5; ++i) ASSERT_TRUE(mla->add_sequence().ok());
  expect_error(mla->add_sequence(), ErrorCode::bad_input, "max_sequences");
}

TEST_P(Mla, WrongConfigsAndWeightsAreRefused) {
  const auto refused = [&](auto change, const std::string& part, ErrorCode code = ErrorCode::bad_input) {
    MlaModuleConfig config = small();
    change(config);
    expect_error(MlaModule::create_dummy(device, config, 1), code, part);
  };
  refused([](auto& c) { c.hidden_size = 0; }, "hidden_size is 0");
  refused([](auto& c) { c.qk_rope_head_dim = 15; }, "even");
  refused([](auto& c) { c.num_heads = -1; }, "num_heads");
  refused([](auto& c) { c.page_size = 0; }, "page_size");
  refused([](auto& c) { c.cache_dtype = "int3"; }, "cache_dtype 'int3'");
  refused([](auto& c) { c.scheme = "w3a3"; }, "w3a3", ErrorCode::unsupported);
  refused([](auto& c) { c.scheme = "mxfp4", c.hidden_size = 90; }, "90 inputs");
  refused([](auto& c) { c.yarn->factor = -1; }, "factor -1");
  refused([](auto& c) { c.rope_theta = 0; }, "rope_theta");
  refused([](auto& c) { c.max_sequences = 65536, c.max_length = 1 << 24; }, "2^31");
  refused([](auto& c) { c.cache_tokens = 1 << 29, c.page_size = 1; }, "larger page_size");
  refused(
      [](auto& c) {
        c.max_sequences = 64, c.max_length = 1 << 24, c.page_size = 256, c.kv_lora_rank = 65536;
      },
      "are available", ErrorCode::out_of_memory);

  Random random(1);
  const std::vector<float> q_a = random.floats(64 * kHidden);
  MlaWeights weights;
  weights.q_a_proj = HostMatrix(q_a, 63, kHidden);
  expect_error(MlaModule::create(device, small(), weights), ErrorCode::bad_input,
               "q_a_proj is [63, 96], must be [64, 96]");
  weights.q_a_proj = HostMatrix(std::span(q_a).first(10), 64, kHidden);
  expect_error(MlaModule::create(device, small(), weights), ErrorCode::bad_input, "comes with 10 values");
  std::vector<float> broken = q_a;
  broken[kHidden + 3] = NAN;
  weights.q_a_proj = HostMatrix(broken, 64, kHidden);
  expect_error(MlaModule::create(device, small(), weights), ErrorCode::bad_input,
               "q_a_proj has the value nan in row 1, column 3");
  weights.q_a_proj = HostMatrix(q_a, 64, kHidden);
  expect_error(MlaModule::create(device, small(), weights), ErrorCode::bad_input,
               "q_a_layernorm has 0 values");
}

INSTANTIATE_TEST_SUITE_P(Places, Mla, ::testing::ValuesIn(places()), place_name);

}  // namespace
}  // namespace nibble::testing
