/* SPDX-License-Identifier: Apache-2.0 */
/* detectors: their names in the command, and which parameters of the rule each of them reads. */
#include "options.h"

#define DETECTORS(X)                                                   \
  X("otsu", TAILCUT_OTSU, CLI_USES_SEARCH)                             \
  X("chord", TAILCUT_CHORD, CLI_USES_SEARCH)                           \
  X("gap", TAILCUT_GAP, CLI_USES_SEARCH)                               \
  X("curvature", TAILCUT_CURVATURE, CLI_USES_WINDOW | CLI_USES_SEARCH) \
  X("iqr", TAILCUT_IQR, 0)                                             \
  X("mean", TAILCUT_MEAN, CLI_USES_LAMBDA)                             \
  X("mass", TAILCUT_MASS, CLI_USES_MASS)                               \
  X("threshold", TAILCUT_THRESHOLD, CLI_USES_TAU)                      \
  X("topk", TAILCUT_TOPK, CLI_USES_K)                                  \
  X("ratio", TAILCUT_RATIO, CLI_USES_RATIO)

#define WORD(name, value, uses) {name, value},
const cli_word cli_detector_words[] = {DETECTORS(WORD){NULL, 0}};

const char *cli_detector_name(int32_t detector) {
  return cli_word_text(cli_detector_words, detector);
}

unsigned cli_detector_uses(int32_t detector) {
#define USES(name, value, uses) \
  case value:                   \
    return uses;
  switch (detector) { DETECTORS(USES) }
  return 0;
}
