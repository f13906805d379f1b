// The directory a quantised checkpoint goes to: may it be used, and the small files around the weights.
#pragma once

#include <string>
#include <vector>

#include "models/quantize/plan.h"
#include "nibble/quantize.h"
#include "nibble/result.h"

namespace nibble::models {

enum class DestinationState : std::uint8_t { fresh, resumable };

// Creates the directory. bad_input if it is the source or inside it, or holds anything but an interrupted
// run and options.overwrite is not set.
Result<DestinationState> open_destination(const QuantizeOptions& options);

// With options.overwrite: removes the weight files and configurations that a checkpoint there had.
Status clear_destination(const QuantizeOptions& options);

// Index, config.json, ModelOpt's side file, and the source's generation_config.json, tokenizer, chat
// template, code and licence files.
Status write_small_files(const QuantizeOptions& options, const QuantizePlan& plan);

Status write_report(const QuantizeOptions& options, const QuantizeReport& report);

}  // namespace nibble::models
