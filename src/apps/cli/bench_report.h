// Benchmark results as a llama-bench table, CSV, JSON or JSON lines.
#pragma once

#include <string>
#include <vector>

#include "cli/bench_measure.h"
#include "cli/json_writer.h"
#include "nibble/llm.h"
#include "nibble/result.h"
#include "nibble/system.h"

namespace nibble::cli {

// What every result is stamped with.
struct BenchStamp {
  VersionInfo version;
  SystemInfo system;
  LlmInfo model;
  std::string model_name;
  std::string flags;  // as typed
  std::string isa;
  int threads = 0;
  bool dummy_weights = false;
  std::int32_t num_hidden_layers = 0;  // > 0: the model was shortened to this
};

// The stamp for a loaded model.
Result<BenchStamp> make_stamp(const Llm& llm, const LlmOptions& options,
                              const std::vector<std::string>& arguments);

void write_stamp(JsonWriter& json, const BenchStamp& stamp);

// "V2-Lite, 9 layers, mxfp4"
std::string describe_model(const BenchStamp& stamp);

// `format` is md, csv, json or jsonl.
std::string report(const BenchStamp& stamp, const std::vector<BenchResult>& results,
                   const std::string& format);

}  // namespace nibble::cli
