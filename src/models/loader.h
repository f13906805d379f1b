// Streaming a bound checkpoint into a device's layout.
#pragma once

#include "formats/checkpoint.h"
#include "kernels/device.h"
#include "models/binding.h"
#include "nibble/result.h"
#include "nibble/types.h"
#include "quant/encode/encode.h"

namespace nibble::models {

// Allocates every weight of the list (their formats are known). out_of_memory says how much is needed.
Status allocate_weights(const std::vector<WeightSpec>& specs, kernels::Device& device);

// Reads the checkpoint once, in file order: checks that every value is finite, quantises it where the
// weight takes another format (`scales`: how its scales are chosen), packs it, lets its pages go. Memory
// beyond the packed weights is what is in flight: mapped pages of a batch of small tensors, or about
// kTaskBytes of large ones a thread.
// bad_input names the tensor and element that is not finite; interrupted if progress returned false.
Status stream_weights(const formats::Checkpoint& checkpoint, const BoundCheckpoint& bound,
                      kernels::Device& device, quant::ScaleRule scales, const ProgressCallback& progress);

}  // namespace nibble::models
