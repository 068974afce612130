// How fast a KVM is.
#ifndef PENUMBRA_NATIVE_ENGINE_CALIBRATE_H_
#define PENUMBRA_NATIVE_ENGINE_CALIBRATE_H_

#include <string>

namespace penumbra {

struct Calibration {
  double guest_rate;  ///< instructions per second of a short loop at privilege level 0 in a virtual machine
  double host_rate;   ///< of the same loop on the host
  double exit_ns;     ///< from the virtual machine to its owner and back
};

/// Measures the KVM at `device` within some 30 ms; where there is no hardware behind it, it executes such code some
/// thousand times slower than the processor does. Throws Error UNSUPPORTED, PERMISSION (see KvmDevice), ENGINE.
Calibration Calibrate(const std::string& device);

}  // namespace penumbra

#endif  // PENUMBRA_NATIVE_ENGINE_CALIBRATE_H_
