/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include <cstdint>
struct half {
  uint16_t bits;
};
