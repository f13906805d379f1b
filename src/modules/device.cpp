#include "modules/device.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "engine/device_options.h"
#include "kernels/native_stream.h"
#include "modules/guard.h"

namespace nibble {
namespace {

// The caller's keys and ours are parts of one range.
constexpr std::uint64_t kMaxCallerKey = std::uint64_t{1} << 62;
// Recordings of calls with ever new addresses are worth nothing: then all begin again.
constexpr std::size_t kMaxRecordings = 1024;

}  // namespace

void ModuleDevice::Impl::run(const RecordingId& id, const std::function<void()>& launch) {
  if (in_sequence || !exec().records()) return launch();
  if (keys.size() >= kMaxRecordings && !keys.contains(id)) settle();
  const auto [entry, is_new] = keys.try_emplace(id, kMaxCallerKey + keys.size() + 1);
  exec().run_recorded(entry->second, launch);
}

void ModuleDevice::Impl::settle() {
  memory().download({}, nullptr);
  exec().forget_recorded();
  keys.clear();
}

ModuleDevice::ModuleDevice(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ModuleDevice::~ModuleDevice() = default;

Result<std::shared_ptr<ModuleDevice>> ModuleDevice::open(const ModuleDeviceOptions& options) {
  return modules::guarded([&]() -> Result<std::shared_ptr<ModuleDevice>> {
    NIB_TRY(const kernels::DeviceOptions parsed,
            engine::parse_device_options(options.device, options.num_threads, options.isa, "num_threads"));
    auto impl = std::make_unique<Impl>();
    NIB_TRY(impl->device, kernels::make_device(parsed));
    impl->description = impl->device->description();
    impl->kind = parsed.kind;
    return std::shared_ptr<ModuleDevice>(new ModuleDevice(std::move(impl)));
  });
}

const std::string& ModuleDevice::description() const noexcept { return impl_->description; }
DeviceKind ModuleDevice::kind() const noexcept { return impl_->kind; }

Result<DeviceArray> ModuleDevice::allocate(std::size_t bytes) {
  try {
    auto memory = std::make_shared<Buffer>(impl_->memory().allocate(bytes));
    DeviceArray array;
    array.data_ = memory->data();
    array.bytes_ = bytes;
    array.owner_ = std::move(memory);
    return array;
  } catch (const std::bad_alloc&) {
    return out_of_memory(fmt::format("no memory for {} bytes on {}", bytes, impl_->description));
  } catch (const std::exception& e) {
    return runtime_error(e.what());
  }
}

Status ModuleDevice::upload(void* to, const void* from, std::size_t bytes) {
  return modules::guarded([&]() -> Status {
    impl_->memory().upload(static_cast<std::byte*>(to), {static_cast<const std::byte*>(from), bytes});
    impl_->memory().download({}, nullptr);  // the source may go as soon as we return
    return {};
  });
}

Status ModuleDevice::download(void* to, const void* from, std::size_t bytes) {
  return modules::guarded([&]() -> Status {
    impl_->memory().download({static_cast<std::byte*>(to), bytes}, static_cast<const std::byte*>(from));
    return {};
  });
}

Status ModuleDevice::synchronize() {
  return modules::guarded([&]() -> Status {
    impl_->memory().download({}, nullptr);
    return {};
  });
}

Status ModuleDevice::run_recorded(std::uint64_t key, const std::function<Status()>& work) {
  if (key == 0 || key > kMaxCallerKey) {
    return bad_input(fmt::format("the key of a recording is {}, must be from 1 to 2^62", key));
  }
  if (impl_->in_sequence) return bad_input("run_recorded inside run_recorded");
  struct Sequence {
    explicit Sequence(bool& in_sequence) : flag(in_sequence) { flag = true; }
    ~Sequence() { flag = false; }
    bool& flag;
  };
  return modules::guarded([&]() -> Status {
    const Sequence sequence(impl_->in_sequence);
    Status status;
    impl_->exec().run_recorded(key, [&] { status = work(); });
    if (!status.ok()) impl_->exec().forget_recorded();  // half a sequence must not be replayed
    return status;
  });
}

void ModuleDevice::forget_recorded() {
  static_cast<void>(modules::guarded([&]() -> Status {
    impl_->settle();
    return {};
  }));
}

void* ModuleDevice::native_stream() const noexcept { return kernels::native_stream(impl_->exec()); }

}  // namespace nibble
