#include "cli/model_options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <limits>

#include "cli/options.h"
#include "cli/progress.h"
#include "cli/signals.h"
#include "nibble/checkpoint.h"

namespace nibble::cli {

namespace {

constexpr std::int32_t kMaxInt = std::numeric_limits<std::int32_t>::max();
constexpr std::int32_t kMaxThreads = 1024;
constexpr std::int32_t kMaxSequences = 4096;

// "bf16, fp8, ..."
std::string scheme_list() {
  std::string list;
  for (const SchemeInfo& scheme : quantization_schemes()) {
    list += fmt::format("{}{}", list.empty() ? "" : ", ", scheme.name);
  }
  return list;
}

}  // namespace

void add_common_options(OptionSet& options, CommonOptions& common, const std::string& json_help,
                        bool device_used) {
  const std::string unused = device_used ? "" : " (accepted everywhere; this command computes nothing)";
  options.heading("Common");
  options.add_flag("--json", common.json, json_help);
  options.add_choice("--device", common.device, {"auto", "cpu", "cuda"}, "Where to compute" + unused);
  options.add_integer("--threads,-t,--cpu-threads", common.threads, 1, kMaxThreads,
                      "Threads; all cores if not given" + unused);
  options.add_choice("--progress", common.progress, {"auto", "json", "none"},
                     "Progress on stderr: bars on a terminal, JSON lines, or none");
  options.add_path("--options", common.options_file, "File of \"option = value\" lines");
}

void add_model_options(OptionSet& options, ModelOptions& model) {
  options.heading("Model");
  options.add_positional("MODEL,-m,--model", model.llm.model, "Checkpoint directory");
  options.add_choice("--load-format", model.load_format, {"auto", "dummy"},
                     "dummy: pseudo-random weights of the config's shape, no checkpoint needed");
  options.add_path("--config", model.llm.config,
                   "config.json for dummy weights; MODEL/config.json if not given");
  options.add_text("--quantization", model.llm.quantization, "SCHEME",
                   "Scheme of the projections, made while loading if the checkpoint stores another: auto, " +
                       scheme_list());
  options.add_text("--attn", model.llm.attn_quantization, "SCHEME",
                   "Scheme of attention, in place of --quantization");
  options.add_text("--mlp", model.llm.mlp_quantization, "SCHEME", "Scheme of dense and shared MLPs");
  options.add_text("--experts", model.llm.experts_quantization, "SCHEME", "Scheme of routed experts");
  options.add_text("--other", model.llm.other_quantization, "SCHEME", "Scheme of embedding and head");
  options.add_choice("--scales", model.scales, {"searched", "plain"},
                     "Scales of what is quantised while loading: least squared error, or the format's rule");
  options.add_choice("--moe-backend", model.llm.moe_backend, {"auto", "w4a16", "w4a8", "fp8", "reference"},
                     "Routed experts: as their scheme says; 4-bit with inputs as they are or in 8 bits; made "
                     "FP8; or by the plainest kernel");
  options.add_repeatable("--exclude", model.llm.quantization_exclude, "MODULE",
                         "Module or glob that stays as stored; may be given several times");
  options.add_integer("--num-hidden-layers", model.llm.num_hidden_layers, 1, kMaxInt,
                      "Use fewer layers (dummy weights only)");
  options.add_choice("--isa", model.isa, {"auto", "scalar", "avx2", "avx512", "avx512_f32", "avx512_bf16"},
                     "Processor instructions to use");
  options.add_integer("--max-model-len,-c,--ctx-size,--context-length", model.llm.max_model_len, 1, kMaxInt,
                      "Context in tokens; what the model allows and memory holds if not given");
  options.add_integer("--max-num-batched-tokens,--chunked-prefill-size", model.llm.max_num_batched_tokens, 1,
                      1 << 20, "Tokens per step while reading prompts");
  options.add_choice("--mla", model.mla, {"auto", "naive", "absorb", "absorbed"},
                     "How latent attention is computed");
  options.add_choice("--kv-cache-dtype", model.llm.kv_cache_dtype,
                     {"auto", "f32", "bf16", "fp8", "fp8_e4m3", "fp8_e5m2"}, "Cache entries");
}

void add_max_num_seqs(OptionSet& options, ModelOptions& model) {
  options.add_integer("--max-num-seqs,--max-running-requests", model.llm.max_num_seqs, 1, kMaxSequences,
                      "Sequences at a time (also -np)");
}

Status require_model(const std::filesystem::path& model) {
  if (model.empty()) return bad_input("no model given (MODEL); name a checkpoint directory");
  return {};
}

Result<LlmOptions> resolve(const ModelOptions& model, const CommonOptions& common) {
  LlmOptions llm = model.llm;
  llm.dummy_weights = model.load_format == "dummy";
  llm.search_scales = model.scales == "searched";
  llm.device = common.device;
  llm.num_threads = common.threads;
  llm.isa = model.isa == "auto" ? "" : model.isa;
  llm.mla = model.mla == "auto"    ? MlaMode::automatic
            : model.mla == "naive" ? MlaMode::naive
                                   : MlaMode::absorb;
  const bool has_shape = !llm.model.empty() || (llm.dummy_weights && !llm.config.empty());
  if (has_shape) return llm;
  if (llm.dummy_weights) {
    return bad_input("dummy weights need a shape (--config); name a config.json or a MODEL directory");
  }
  return require_model(llm.model).error();
}

Result<std::unique_ptr<Llm>> load_model(const LlmOptions& options, const CommonOptions& common) {
  const InterruptScope scope(nullptr);
  Progress progress(common.progress);
  auto llm = Llm::load(options, progress.callback());
  progress.clear();
  if (interrupted()) return interrupted_error();
  const bool show_notes = llm.ok() && common.progress == "auto" && ::isatty(STDERR_FILENO) == 1;
  if (show_notes) {
    for (const std::string& note : (*llm)->info().notes) fmt::print(stderr, "note: {}\n", note);
  }
  return llm;
}

std::string model_name(const LlmOptions& options) {
  std::filesystem::path path = options.model;
  if (path.empty()) {
    // A published model is known by its directory; a config file of another name by its own.
    const std::filesystem::path config = std::filesystem::absolute(options.config);
    if (config.filename() != "config.json") return config.stem().string();
    path = config.parent_path();
  }
  path = path.lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

Error interrupted_error() { return {ErrorCode::interrupted, ""}; }

}  // namespace nibble::cli
