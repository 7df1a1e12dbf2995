// Learning rates as pure functions of the step.
//
// Steps count from 0: `step` is the one about to be taken. The linear warm-up is (step + 1) / warmup, so the first step
// already moves the weights and step warmup - 1 has the peak. Decays reach their final value at step `steps`, one after
// the last; the one-cycle schedule at its last step, as its PyTorch original does.
#pragma once

#include <cstdint>

namespace nibble {

enum class ScheduleKind {
  constant,  ///< warm-up, then the peak
  cosine,    ///< warm-up, then half a cosine to the final fraction
  wsd,       ///< warm-up, the peak, and a cooldown over the last steps (warm-up, stable, decay)
  onecycle,  ///< "cos" of the QuEST and Quartet code: torch's OneCycleLR, half a cosine up and half a cosine down
};

/// How a WSD schedule comes down; x = the part of the cooldown that is done.
enum class CooldownShape {
  linear,          ///< 1 - x
  one_minus_sqrt,  ///< 1 - sqrt(x): drops fast first (Hägele et al., "Scaling laws beyond fixed durations", 2024)
};

struct ScheduleSettings {
  ScheduleKind kind = ScheduleKind::cosine;
  double peak = 1e-3;           ///< learning rate
  int64_t steps = 0;            ///< of the whole run
  int64_t warmup = 0;           ///< steps
  double final_fraction = 0.1;  ///< of the peak, at the end of cosine, wsd and onecycle
  int64_t cooldown = 0;         ///< steps at the end; wsd only
  CooldownShape cooldown_shape = CooldownShape::one_minus_sqrt;
};

/// Throws Error{configuration} for a peak that is not positive, no steps, a final fraction outside [0, 1], and for
/// warm-up and cooldown that do not fit into the steps.
void validate(const ScheduleSettings& settings);

/// The learning rate of `step` in [0, steps). `settings` are valid. Later steps keep the final value.
double learning_rate(const ScheduleSettings& settings, int64_t step);

}  // namespace nibble
