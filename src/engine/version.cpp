// version_info of nibble/system.h. git_commit.h is written by the build (git_commit.cmake).
#include "git_commit.h"
#include "kernels/device.h"
#include "nibble/system.h"

namespace nibble {
namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#else
constexpr const char* kCompiler = "unknown";
#endif

}  // namespace

VersionInfo version_info() {
  return {.version = NIBBLE_VERSION,
          .commit = kGitCommit,
          .compiler = kCompiler,
          .build_type = NIBBLE_BUILD_TYPE,
          .cuda = kernels::cuda_devices().is_built};
}

}  // namespace nibble
