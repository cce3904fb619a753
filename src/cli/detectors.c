/* SPDX-License-Identifier: Apache-2.0 */
/* detectors: what the command needs of the library's list of them. */
#include "detectors.h"

#include "options.h"

#define WORD(name, word, function, uses, kept) {word, TAILCUT_##name},
const cli_word cli_detector_words[] = {TC_DETECTORS(WORD){NULL, 0}};

uint32_t cli_detector_uses(int32_t detector) {
#define USES(name, word, function, uses, kept) \
  case TAILCUT_##name:                         \
    return (uses);
  switch (detector) { TC_DETECTORS(USES) }
  return 0;
}

const char *cli_detector_keeps(int32_t detector) {
#define KEEPS(name, word, function, uses, kept) \
  case TAILCUT_##name:                          \
    return kept;
  switch (detector) { TC_DETECTORS(KEEPS) }
  return "";
}
