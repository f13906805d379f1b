// quantization_schemes of nibble/checkpoint.h.
#include <sstream>

#include "nibble/checkpoint.h"
#include "quant/scheme.h"

namespace nibble {

std::vector<SchemeInfo> quantization_schemes() {
  std::vector<SchemeInfo> list;
  for (const quant::SchemeRow& row : quant::schemes()) {
    SchemeInfo& info = list.emplace_back();
    info.name = row.name;
    std::istringstream aliases{std::string(row.aliases)};
    for (std::string alias; aliases >> alias;) info.aliases.push_back(alias);
    info.weights = quant::format_name(row.scheme.weights);
    info.activations = quant::activation_name(row.scheme.activations);
    info.summary = row.summary;
  }
  return list;
}

}  // namespace nibble
