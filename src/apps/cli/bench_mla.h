// What bench mla's two parts share.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cli/bench_module.h"
#include "nibble/modules/mla.h"
#include "nibble/result.h"

namespace nibble::cli {

struct MlaBenchOptions {
  MlaModuleConfig shape;  // sizes, rope
  std::int32_t repetitions = 0;
  bool json = false;
};

// Attention alone: one decode step of every length x batch x heads x cache dtype.
struct MlaTablePlan {
  std::vector<std::int32_t> lengths;
  std::vector<std::int32_t> batches;
  std::vector<std::int32_t> heads;
  std::vector<std::string> cache_dtypes;
};

// Each prints its result and returns an error if a value was out of its bound.
Status run_mla_table(const std::shared_ptr<ModuleDevice>& device, const CommonOptions& common,
                     const MlaBenchOptions& options, const MlaTablePlan& plan, const ModuleStamp& stamp);
Status run_mla_challenge(const std::shared_ptr<ModuleDevice>& device, const CommonOptions& common,
                         const MlaBenchOptions& options, const std::vector<std::string>& schemes,
                         std::int32_t rounds, const ModuleStamp& stamp);

}  // namespace nibble::cli
