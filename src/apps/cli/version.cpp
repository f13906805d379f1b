// nibble version.

#include <fmt/format.h>

#include "cli/command.h"
#include "cli/files.h"
#include "cli/json_writer.h"
#include "cli/model_options.h"
#include "nibble/system.h"

namespace nibble::cli {

namespace {

class VersionCommand final : public Command {
 public:
  void define(OptionSet& options) override {
    add_common_options(options, common_, "Print one JSON object", false);
  }

  Status run() override {
    const VersionInfo info = version_info();
    if (!common_.json) {
      return print_line(fmt::format("nibble {} ({}, {}, {}, {})", info.version, info.commit, info.compiler,
                                    info.build_type, info.cuda ? "with CUDA" : "CPU only"));
    }
    JsonWriter json;
    json.begin_object().field("version", info.version).field("commit", info.commit);
    json.field("compiler", info.compiler).field("build_type", info.build_type).field("cuda", info.cuda);
    return print_line(json.end_object().text());
  }

 private:
  CommonOptions common_;
};

}  // namespace

std::unique_ptr<Command> make_version() { return std::make_unique<VersionCommand>(); }

}  // namespace nibble::cli
