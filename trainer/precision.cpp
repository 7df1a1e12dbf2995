#include "trainer/precision.hpp"

namespace nibble {

Precision precision_of(const Settings& settings) { return find_recipe(settings.precision.recipe); }

}  // namespace nibble
