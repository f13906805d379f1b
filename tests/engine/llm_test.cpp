// The public Llm on golden models and dummy weights: everything between options and text.
#include "nibble/llm.h"
#include "nibble/system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>

#include "tests/support/paths.h"
#include "tests/support/random.h"
#include "tests/support/safetensors_reader.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

const std::vector<std::string> kModels{"v2-tiny", "v2lite-tiny", "v3-tiny-fp8", "v3-tiny-nvfp4"};

struct Golden {
  std::vector<TokenId> ids[2];
  std::vector<float> logits[2];
  std::vector<TokenId> greedy;
};

Golden read_golden(const fs::path& dir) {
  const testing::SafetensorsReader file(dir / "golden.safetensors");
  const auto ids = file.at("input_ids").values<std::int64_t>();
  const auto logits = file.at("logits").values<float>();
  const auto greedy = file.at("greedy_ids").values<std::int64_t>();
  Golden golden;
  for (std::size_t row = 0; row < 2; ++row) {
    const std::size_t length = ids.size() / 2;
    const std::size_t values = logits.size() / 2;
    for (std::size_t t = 0; t < length; ++t)
      golden.ids[row].push_back(static_cast<TokenId>(ids[row * length + t]));
    const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row * values);
    golden.logits[row].assign(begin, begin + static_cast<std::ptrdiff_t>(values));
  }
  for (const std::int64_t id : greedy) golden.greedy.push_back(static_cast<TokenId>(id));
  return golden;
}

fs::path golden_dir(const std::string& name) { return testing::test_data("golden") / name; }

// AVX2 or scalar: float32 operands, so the goldens' float32 tolerance holds.
LlmOptions exact_options(const std::string& name) {
  return {
      .model = golden_dir(name), .isa = "scalar", .num_threads = 2, .max_model_len = 256, .max_num_seqs = 4};
}

std::unique_ptr<Llm> load(const LlmOptions& options) {
  auto llm = Llm::load(options);
  EXPECT_TRUE(llm.ok()) << llm.error().message;
  return llm.ok() ? std::move(*llm) : nullptr;
}

double max_difference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double max = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double d = std::abs(static_cast<double>(a[i]) - b[i]);
    max = d > max || std::isnan(d) ? d : max;
  }
  return max;
}

// The recommended float32 tolerance of every golden README.
constexpr double kTolerance = 2e-4;

class GoldenLlm : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Models, GoldenLlm, ::testing::ValuesIn(kModels), [](const auto& model) {
  std::string name = model.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(GoldenLlm, LogitsAgreeHoweverTokensAreFed) {
  const Golden golden = read_golden(golden_dir(GetParam()));
  const auto llm = load(exact_options(GetParam()));
  ASSERT_NE(llm, nullptr);
  const std::vector<LogitsRequest> requests{
      {.tokens = golden.ids[0]},
      {.tokens = golden.ids[0], .prefill_chunk = 7},
      {.tokens = golden.ids[0], .decode_from = 5},
      {.tokens = golden.ids[0], .batch_with = golden.ids[1]},
      {.tokens = golden.ids[0], .batch_with = golden.ids[1], .prefill_chunk = 7, .decode_from = 30},
  };
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto logits = llm->logits(requests[i]);
    ASSERT_TRUE(logits.ok()) << logits.error().message;
    EXPECT_LE(max_difference(*logits, golden.logits[0]), kTolerance) << "request " << i;
  }
  const auto second = llm->logits({.tokens = golden.ids[1]});
  ASSERT_TRUE(second.ok());
  EXPECT_LE(max_difference(*second, golden.logits[1]), kTolerance);
  EXPECT_EQ(llm->stats().pages_used, 0);
}

TEST_P(GoldenLlm, GreedyContinuationIsTheReferences) {
  const Golden golden = read_golden(golden_dir(GetParam()));
  const auto llm = load(exact_options(GetParam()));
  ASSERT_NE(llm, nullptr);
  const SamplingParams sampling{.max_tokens = static_cast<std::int32_t>(golden.greedy.size()),
                                .ignore_eos = true};
  int num_calls = 0;
  const auto reply =
      llm->generate({.prompt = golden.ids[0], .sampling = sampling}, [&](std::string_view text, TokenId) {
        EXPECT_EQ(text, "") << "there is no tokenizer";
        ++num_calls;
        return true;
      });
  ASSERT_TRUE(reply.ok()) << reply.error().message;
  EXPECT_EQ(reply->token_ids, golden.greedy);
  EXPECT_EQ(reply->finish, FinishReason::length);
  EXPECT_EQ(reply->prompt_tokens, static_cast<std::int32_t>(golden.ids[0].size()));
  EXPECT_EQ(num_calls, static_cast<int>(golden.greedy.size()));
  EXPECT_GT(reply->timings.prefill_tok_s, 0);
  EXPECT_GT(reply->timings.decode_tok_s, 0);

  // The same among others, in batches that mix prefill and decode.
  std::vector<GenerateRequest> requests(3, {.prompt = golden.ids[0], .sampling = sampling});
  requests[1].prompt = golden.ids[1];
  const auto replies = llm->generate_batch(requests);
  ASSERT_TRUE(replies.ok()) << replies.error().message;
  EXPECT_EQ((*replies)[0].token_ids, golden.greedy);
  EXPECT_EQ((*replies)[2].token_ids, golden.greedy);
  EXPECT_NE((*replies)[1].token_ids, golden.greedy);
}

// A small V3-shaped model with the vocabulary of the golden tokenizer, with dummy weights.
class DummyLlm : public ::testing::Test {
 protected:
  void SetUp() override {
    dir_ = fs::temp_directory_path() / fmt_name();
    fs::create_directories(dir_);
    for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) {
      fs::copy_file(testing::test_data("golden/tokenizer") / file, dir_ / file,
                    fs::copy_options::overwrite_existing);
    }
    std::ofstream(dir_ / "config.json") << R"({
      "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 4224, "hidden_size": 128,
      "intermediate_size": 128, "moe_intermediate_size": 64, "num_hidden_layers": 2, "first_k_dense_replace": 1,
      "num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": null, "kv_lora_rank": 64,
      "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 8, "n_shared_experts": 1,
      "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
      "norm_topk_prob": true, "routed_scaling_factor": 2.5, "rope_theta": 10000, "max_position_embeddings": 512,
      "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": false, "moe_layer_freq": 1,
      "bos_token_id": 0, "eos_token_id": 1})";
  }
  void TearDown() override { fs::remove_all(dir_); }

  static std::string fmt_name() {
    return std::string("nibble-llm-test-") + ::testing::UnitTest::GetInstance()->current_test_info()->name() +
           "-" + std::to_string(::getpid());
  }

  [[nodiscard]] LlmOptions options() const {
    return {.model = dir_, .dummy_weights = true, .num_threads = 2, .max_num_seqs = 3};
  }

  [[nodiscard]] Error load_error(const LlmOptions& options) const {
    const auto llm = Llm::load(options);
    EXPECT_FALSE(llm.ok());
    return llm.ok() ? Error{} : llm.error();
  }

  // Sampled, so that the reply is not one token for ever.
  static GenerateRequest request(Llm& llm, std::string_view text, std::int32_t max_tokens,
                                 std::uint64_t seed = 1) {
    return {.prompt = *llm.tokenizer()->encode(text),
            .sampling = {.temperature = 1.0F, .seed = seed, .max_tokens = max_tokens, .ignore_eos = true}};
  }

  fs::path dir_;
};

TEST_F(DummyLlm, MoeBackends) {
  const auto logits = [&](const std::string& scheme, const std::string& backend) {
    LlmOptions wanted = options();
    wanted.device = "cpu";
    wanted.experts_quantization = scheme;
    wanted.moe_backend = backend;
    const auto llm = load(wanted);
    const auto result = llm->logits({.tokens = {5, 6, 7, 8, 9}});
    EXPECT_TRUE(result.ok()) << scheme << ' ' << backend;
    return result.ok() ? *result : std::vector<float>();
  };
  const std::vector<float> w4a16 = logits("mxfp4", "w4a16");
  const std::vector<float> w4a8 = logits("mxfp4", "w4a8");
  EXPECT_EQ(logits("mxfp4", "auto"), w4a16);
  EXPECT_EQ(logits("mxfp4_w4a8", "auto"), w4a8);
  EXPECT_EQ(logits("mxfp4_w4a8", "w4a16"), w4a16);
  EXPECT_GT(max_difference(w4a8, w4a16), 0.0);
  EXPECT_EQ(logits("", "fp8"), logits("fp8_w8a8", "auto"));
  EXPECT_EQ(logits("int4", "w4a8"), logits("int4_w4a8", "auto"));
  // Another order of sums, and on the tier with bf16 products none of those.
  EXPECT_LE(max_difference(logits("mxfp4", "reference"), w4a16),
            0.05 * max_difference(w4a16, std::vector<float>(w4a16.size())));

  LlmOptions wrong = options();
  wrong.device = "cpu";
  wrong.moe_backend = "w4a4";
  EXPECT_EQ(load_error(wrong).code, ErrorCode::bad_input);
  wrong.moe_backend = "w4a8";  // of bf16 experts
  const Error error = load_error(wrong);
  EXPECT_EQ(error.code, ErrorCode::unsupported);
  EXPECT_THAT(error.message, HasSubstr("w4a8: mxfp4, nvfp4, int4"));
}

TEST_F(DummyLlm, StreamsTheTextOfTheReply) {
  const auto llm = load(options());
  ASSERT_NE(llm, nullptr);
  std::string streamed;
  const auto reply =
      llm->generate(request(*llm, "Once upon a time", 60), [&](std::string_view text, TokenId) {
        streamed += text;
        return true;
      });
  ASSERT_TRUE(reply.ok()) << reply.error().message;
  EXPECT_EQ(reply->token_ids.size(), 60U);
  EXPECT_EQ(streamed, reply->text);
  EXPECT_EQ(reply->text, *llm->tokenizer()->decode(reply->token_ids, true));
  EXPECT_FALSE(reply->text.empty());
}

TEST_F(DummyLlm, TheSameSeedGivesTheSameReplyAloneAndInABatch) {
  const auto llm = load(options());
  ASSERT_NE(llm, nullptr);
  const std::vector<GenerateRequest> requests{request(*llm, "One", 20, 1),
                                              request(*llm, "Two and a half", 25, 2),
                                              request(*llm, "One", 20, 3), request(*llm, "One", 20, 1)};
  const auto batch = llm->generate_batch(requests);
  ASSERT_TRUE(batch.ok()) << batch.error().message;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto alone = llm->generate(requests[i]);
    ASSERT_TRUE(alone.ok());
    EXPECT_EQ((*batch)[i].token_ids, alone->token_ids) << i;
    EXPECT_EQ((*batch)[i].text, alone->text) << i;
  }
  EXPECT_EQ((*batch)[0].token_ids, (*batch)[3].token_ids);
  EXPECT_NE((*batch)[0].token_ids, (*batch)[2].token_ids);
}

TEST_F(DummyLlm, StopStringsEndTheReplyAcrossTokenBordersAndAreNotPartOfIt) {
  const auto llm = load(options());
  ASSERT_NE(llm, nullptr);
  GenerateRequest wanted = request(*llm, "Once", 60);
  const auto whole = llm->generate(wanted);
  ASSERT_TRUE(whole.ok());
  // From the middle of the text, so that it begins and ends inside tokens.
  std::size_t begin = whole->text.size() / 3;
  while ((static_cast<unsigned char>(whole->text[begin]) & 0xC0U) == 0x80U) ++begin;
  std::size_t end = begin + 12;
  while ((static_cast<unsigned char>(whole->text[end]) & 0xC0U) == 0x80U) ++end;
  wanted.stop_strings = {"never in there", whole->text.substr(begin, end - begin)};
  std::string streamed;
  const auto stopped = llm->generate(wanted, [&](std::string_view text, TokenId) {
    streamed += text;
    return true;
  });
  ASSERT_TRUE(stopped.ok()) << stopped.error().message;
  EXPECT_EQ(stopped->finish, FinishReason::stop);
  EXPECT_EQ(stopped->text, whole->text.substr(0, whole->text.find(wanted.stop_strings[1])));
  EXPECT_EQ(streamed, stopped->text);
  EXPECT_LT(stopped->token_ids.size(), whole->token_ids.size());
  EXPECT_EQ(llm->stats().pages_used, 0);
}

TEST_F(DummyLlm, AStopTokenIsToldButIsNoText) {
  const auto llm = load(options());
  ASSERT_NE(llm, nullptr);
  GenerateRequest wanted = request(*llm, "Once", 10);
  const auto whole = llm->generate(wanted);
  ASSERT_TRUE(whole.ok());
  wanted.sampling.stop_token_ids = {whole->token_ids[4]};
  const auto stopped = llm->generate(wanted);
  ASSERT_TRUE(stopped.ok());
  EXPECT_EQ(stopped->finish, FinishReason::stop);
  EXPECT_EQ(stopped->token_ids.back(), whole->token_ids[4]);
  const std::span<const TokenId> before = std::span(stopped->token_ids).first(stopped->token_ids.size() - 1);
  EXPECT_EQ(stopped->text, *llm->tokenizer()->decode(before, true));
}

TEST_F(DummyLlm, CanBeStoppedFromOutsideAndByTheCallback) {
  const auto llm = load(options());
  ASSERT_NE(llm, nullptr);
  int num_tokens = 0;
  const auto by_callback =
      llm->generate(request(*llm, "Once", 50), [&](auto, auto) { return ++num_tokens < 5; });
  ASSERT_TRUE(by_callback.ok());
  EXPECT_EQ(by_callback->finish, FinishReason::cancelled);
  EXPECT_EQ(by_callback->token_ids.size(), 5U);

  const auto from_outside = llm->generate(request(*llm, "Once", 50), [&](auto, auto) {
    llm->request_stop();
    return true;
  });
  ASSERT_TRUE(from_outside.ok());
  EXPECT_EQ(from_outside->finish, FinishReason::cancelled);
  EXPECT_EQ(from_outside->token_ids.size(), 1U);
  const auto logits = llm->logits({.tokens = {1, 2, 3}});
  ASSERT_FALSE(logits.ok());
  EXPECT_EQ(logits.error().code, ErrorCode::interrupted);

  llm->clear_stop();
  const auto after = llm->generate(request(*llm, "Once", 5));
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(after->token_ids.size(), 5U);
  EXPECT_EQ(llm->stats().num_running, 0);
}

TEST_F(DummyLlm, ACallbackThatThrowsLeavesTheEngineClean) {
  const auto llm = load(options());
  ASSERT_NE(llm, nullptr);
  const auto failed =
      llm->generate(request(*llm, "Once", 50), [](auto, auto) -> bool { throw std::runtime_error("oops"); });
  ASSERT_FALSE(failed.ok());
  EXPECT_EQ(failed.error().message, "oops");
  EXPECT_EQ(llm->stats().pages_used, 0);
  EXPECT_TRUE(llm->generate(request(*llm, "Once", 5)).ok());
}

TEST_F(DummyLlm, PerplexityAgreesWithLogits) {
  const auto llm = load(options());
  ASSERT_NE(llm, nullptr);
  const std::string text = "It was the best of times, it was the worst of times; it was the age of wisdom.";
  const std::vector<TokenId> tokens = *llm->tokenizer()->encode(text);
  const auto logits = llm->logits({.tokens = tokens});
  ASSERT_TRUE(logits.ok());
  const auto vocab_size = static_cast<std::size_t>(llm->info().vocab_size);
  double nll = 0;
  for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {
    const float* row = logits->data() + t * vocab_size;
    double sum = 0;
    for (std::size_t v = 0; v < vocab_size; ++v) sum += std::exp(static_cast<double>(row[v]));
    nll += std::log(sum) - row[tokens[t + 1]];
  }
  std::uint64_t last_done = 0;
  const auto result = llm->perplexity(
      text, {}, [&](std::string_view, std::uint64_t done, std::uint64_t total, std::string_view unit) {
        EXPECT_EQ(total, tokens.size());
        EXPECT_EQ(unit, "tokens");
        last_done = done;
        return true;
      });
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(last_done, tokens.size());
  EXPECT_EQ(result->tokens, static_cast<std::int64_t>(tokens.size()) - 1);
  EXPECT_EQ(result->bytes, static_cast<std::int64_t>(text.size()));
  EXPECT_NEAR(result->nll, nll, 1e-3 * nll);
  EXPECT_DOUBLE_EQ(result->perplexity, std::exp(result->nll / static_cast<double>(result->tokens)));
  EXPECT_DOUBLE_EQ(result->bits_per_byte, result->nll / std::log(2.0) / static_cast<double>(text.size()));

  const auto with_bos = llm->perplexity(text, {.prepend_bos = true});
  ASSERT_TRUE(with_bos.ok());
  EXPECT_EQ(with_bos->tokens, result->tokens + 1);
  const auto interrupted = llm->perplexity(text, {.window = 8}, [](auto, auto, auto, auto) { return false; });
  ASSERT_FALSE(interrupted.ok());
  EXPECT_EQ(interrupted.error().code, ErrorCode::interrupted);
  for (const PerplexityOptions bad : {PerplexityOptions{.window = 1},
                                      {.window = -5},
                                      {.window = 513},
                                      {.window = 8, .stride = 9},
                                      {.stride = -1}}) {
    const auto refused = llm->perplexity(text, bad);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::bad_input) << refused.error().message;
  }
  EXPECT_FALSE(llm->perplexity("", {}).ok());
}

TEST_F(DummyLlm, RefusesBadRequests) {
  const auto llm = load(options());
  ASSERT_NE(llm, nullptr);
  const auto generate_error = [&](const GenerateRequest& bad) {
    const auto reply = llm->generate(bad);
    EXPECT_FALSE(reply.ok());
    return reply.ok() ? std::string() : reply.error().message;
  };
  EXPECT_THAT(generate_error({}), HasSubstr("the prompt is empty"));
  EXPECT_THAT(generate_error({.prompt = {4224}}), HasSubstr("id 4224, outside the vocabulary [0, 4224)"));
  EXPECT_THAT(generate_error({.prompt = std::vector<TokenId>(512, 5)}), HasSubstr("512 tokens"));
  EXPECT_THAT(generate_error({.prompt = {5}, .stop_strings = {""}}), HasSubstr("stop string is empty"));
  EXPECT_THAT(generate_error({.prompt = {5}, .stop_strings = {"\xC3"}}), HasSubstr("stop string"));
  const std::vector<GenerateRequest> requests{request(*llm, "fine", 3), {.prompt = {-1}}};
  const auto batch = llm->generate_batch(requests);
  ASSERT_FALSE(batch.ok());
  EXPECT_THAT(batch.error().message, HasSubstr("request 1: token 0 of the prompt is id -1"));
  EXPECT_EQ(llm->stats().num_waiting, 0);

  const auto logits_error = [&](const LogitsRequest& bad) {
    const auto logits = llm->logits(bad);
    EXPECT_FALSE(logits.ok());
    return logits.ok() ? std::string() : logits.error().message;
  };
  EXPECT_THAT(logits_error({}), HasSubstr("no tokens"));
  EXPECT_THAT(logits_error({.tokens = {1, -3}}), HasSubstr("token 1 is id -3"));
  EXPECT_THAT(logits_error({.tokens = std::vector<TokenId>(513, 1)}),
              HasSubstr("513 tokens are over the context of 512"));
  EXPECT_THAT(logits_error({.tokens = {1}, .prefill_chunk = -1}), HasSubstr("prefill_chunk is -1"));
  EXPECT_THAT(logits_error({.tokens = {1}, .batch_with = {9999}}),
              HasSubstr("second sequence: token 0 is id 9999"));
  EXPECT_EQ(llm->stats().pages_used, 0);
}

TEST_F(DummyLlm, RefusesAbsurdOptions) {
  struct Case {
    std::function<void(LlmOptions&)> change;
    ErrorCode code;
    const char* text;
  };
  const std::vector<Case> cases{
      {[](LlmOptions& o) { o.max_model_len = -1; }, ErrorCode::bad_input, "max_model_len is -1"},
      {[](LlmOptions& o) { o.max_model_len = 513; }, ErrorCode::bad_input,
       "max_model_len is 513, must be from 1 to the model's max_position_embeddings 512"},
      {[](LlmOptions& o) { o.max_num_seqs = 0; }, ErrorCode::bad_input, "max_num_seqs is 0"},
      {[](LlmOptions& o) { o.max_num_seqs = 1 << 30; }, ErrorCode::bad_input,
       "max_num_seqs is 1073741824, must be from 1 to 4096"},
      {[](LlmOptions& o) { o.max_num_batched_tokens = 2; }, ErrorCode::bad_input,
       "max_num_batched_tokens 2 is below max_num_seqs 3"},
      {[](LlmOptions& o) { o.max_num_batched_tokens = -7; }, ErrorCode::bad_input,
       "max_num_batched_tokens is -7"},
      {[](LlmOptions& o) { o.page_size = 0; }, ErrorCode::bad_input, "page_size is 0"},
      {[](LlmOptions& o) { o.num_threads = -1; }, ErrorCode::bad_input, "threads is -1"},
      {[](LlmOptions& o) { o.num_hidden_layers = -2; }, ErrorCode::bad_input, "num_hidden_layers is -2"},
      {[](LlmOptions& o) { o.device = "tpu"; }, ErrorCode::bad_input, "device 'tpu' is unknown"},
      {[](LlmOptions& o) { o.isa = "sse9"; }, ErrorCode::bad_input, "sse9"},
      {[](LlmOptions& o) { o.kv_cache_dtype = "int3"; }, ErrorCode::bad_input,
       "kv_cache_dtype 'int3' is unknown"},
      {[](LlmOptions& o) { o.quantization = "int3"; }, ErrorCode::unsupported, "supported: bf16"},
      {[](LlmOptions& o) { o.experts_quantization = "mxfp4_w4a4"; }, ErrorCode::unsupported, "'mxfp4_w4a4'"},
      {[](LlmOptions& o) {
         o.dummy_weights = false;
         o.num_hidden_layers = 1;
       },
       ErrorCode::bad_input, "dummy weights only"},
      {[](LlmOptions& o) { o.model.clear(); }, ErrorCode::bad_input, "config.json"},
      {[](LlmOptions& o) {
         o.dummy_weights = false;
         o.model.clear();
       },
       ErrorCode::bad_input, "no model directory"},
      {[](LlmOptions& o) { o.model = "/nowhere"; }, ErrorCode::bad_input, "/nowhere"},
  };
  for (const Case& c : cases) {
    LlmOptions changed = options();
    c.change(changed);
    const Error error = load_error(changed);
    EXPECT_EQ(error.code, c.code) << error.message;
    EXPECT_THAT(error.message, HasSubstr(c.text));
  }
}

TEST_F(DummyLlm, RefusesCudaWhereThereIsNone) {
  if (!system_info()->cuda_devices.empty()) GTEST_SKIP() << "there is a GPU";
  LlmOptions changed = options();
  changed.device = "cuda";
  const Error error = load_error(changed);
  EXPECT_EQ(error.code, ErrorCode::unsupported);
  EXPECT_THAT(error.message, HasSubstr("use --device cpu"));
}

TEST_F(DummyLlm, EveryFormatCacheAndMlaFormRuns) {
  for (const char* quantization : {"bf16", "fp8_w8a8", "int8_w8a8", "int4", "mxfp4_w4a8", "nvfp4"}) {
    for (const char* cache : {"f32", "bf16", "fp8", "fp8_e5m2"}) {
      for (const MlaMode mla : {MlaMode::automatic, MlaMode::naive, MlaMode::absorb}) {
        LlmOptions o = options();
        o.quantization = quantization;
        o.kv_cache_dtype = cache;
        o.mla = mla;
        o.max_num_batched_tokens = 16;
        const auto llm = load(o);
        ASSERT_NE(llm, nullptr);
        const auto reply = llm->generate(request(
            *llm, "The quick brown fox jumps over the lazy dog, and then some more text follows.", 6));
        ASSERT_TRUE(reply.ok()) << reply.error().message;
        EXPECT_EQ(reply->token_ids.size(), 6U);
      }
    }
  }
}

TEST_F(DummyLlm, CostsCountWeightsOnceAndGrowWithWork) {
  const auto llm = load(options());
  ASSERT_NE(llm, nullptr);
  const StepCost one = llm->decode_cost(1, 0);
  EXPECT_GT(one.bytes_read, 0U);
  EXPECT_LT(one.bytes_read, llm->info().weight_bytes) << "not all experts";
  EXPECT_GT(llm->decode_cost(1, 100).bytes_read, one.bytes_read) << "the cache is read";
  EXPECT_GT(llm->decode_cost(1, 100).flops, one.flops);
  EXPECT_LT(llm->decode_cost(4, 0).bytes_read, 4 * one.bytes_read) << "weights are shared";
  EXPECT_DOUBLE_EQ(llm->decode_cost(4, 0).flops, 4 * one.flops);
  EXPECT_GT(llm->prefill_cost(64).flops, 32 * one.flops);
}

TEST_F(DummyLlm, InfoDescribesWhatWasLoaded) {
  LlmOptions o = options();
  o.device = "cpu";
  o.max_model_len = 100;
  const auto llm = load(o);
  ASSERT_NE(llm, nullptr);
  EXPECT_EQ(llm->info().model_type, "deepseek_v3");
  EXPECT_EQ(llm->info().vocab_size, 4224);
  EXPECT_EQ(llm->info().num_layers, 2);
  EXPECT_EQ(llm->info().max_model_len, 100);
  EXPECT_GT(llm->info().weight_bytes, 0U);
  EXPECT_EQ(llm->info().cache_bytes, 2U * 80 * sizeof(float) * 64 * 2 * 3)
      << "2 layers x 80 values, 2 pages for each of 3 sequences";
  EXPECT_THAT(llm->info().device, HasSubstr("CPU"));
  EXPECT_NE(llm->tokenizer(), nullptr);
}

TEST(LlmNaN, WeightsThatOverflowEndTheRequestWithAnError) {
  // Norm weights of infinity are refused at load; a huge finite one overflows on the way.
  const fs::path source = golden_dir("v3-tiny-fp8");
  const fs::path dir = fs::temp_directory_path() / ("nibble-llm-nan-" + std::to_string(::getpid()));
  fs::create_directories(dir);
  for (const auto& entry : fs::directory_iterator(source))
    fs::copy_file(entry, dir / entry.path().filename(), fs::copy_options::overwrite_existing);
  const testing::SafetensorsReader reader(source / "model.safetensors");
  const auto& norm = reader.at("model.norm.weight");
  std::fstream file(dir / "model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  std::string bytes((std::istreambuf_iterator<char>(file)), {});
  const std::string_view wanted(reinterpret_cast<const char*>(norm.bytes.data()), norm.bytes.size());
  const std::size_t at = bytes.find(wanted);
  ASSERT_NE(at, std::string::npos);
  for (std::size_t i = 0; i < norm.bytes.size(); i += 2) {
    bytes[at + i] = '\x7F';
    bytes[at + i + 1] = '\x7F';  // bf16 0x7F7F, the largest finite value
  }
  file.clear();
  file.seekp(0);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();

  const auto llm = load({.model = dir, .num_threads = 1, .max_model_len = 64});
  ASSERT_NE(llm, nullptr);
  const auto reply = llm->generate({.prompt = {1, 2, 3}, .sampling = {.max_tokens = 4}});
  ASSERT_FALSE(reply.ok());
  EXPECT_EQ(reply.error().code, ErrorCode::runtime);
  EXPECT_THAT(reply.error().message, HasSubstr("not finite"));
  EXPECT_FALSE(llm->logits({.tokens = {1, 2, 3}}).ok());
  EXPECT_EQ(llm->stats().pages_used, 0);
  fs::remove_all(dir);
}

}  // namespace
}  // namespace nibble
