/* SPDX-License-Identifier: Apache-2.0 */
/* rule: the detectors' names and parameters, and the host checks of a rule. */
#include "check.h"
#include "detectors.h"
#include "mode.h"

TAILCUT_API const char *tailcut_detector_name(int32_t detector) {
  switch (detector) {
#define TC_NAME(name, word, function, uses, help) \
  case TAILCUT_##name:                            \
    return word;
    TC_DETECTORS(TC_NAME)
#undef TC_NAME
  }
  return NULL;
}

int32_t tc_detector_uses(int32_t detector) {
  switch (detector) {
#define TC_USES(name, word, function, uses, help) \
  case TAILCUT_##name:                            \
    return uses;
    TC_DETECTORS(TC_USES)
#undef TC_USES
  }
  return TC_USES_NONE;
}

/* A parameter that the detector needs and the initialiser leaves unset. */
static tailcut_status not_set(const char *name, const tailcut_rule *rule) {
  return tc_fail(TAILCUT_ERROR_RANGE, "%s is not set; expected with the detector %s", name,
                 tailcut_detector_name(rule->detector));
}

static tailcut_status check_parameters(const tailcut_rule *rule) {
  const int32_t uses = tc_detector_uses(rule->detector);
  if (uses & TC_USES_K) {
    if (rule->k == -1) return not_set("rule->k", rule);
    TC_TRY(tc_check_int("rule->k", rule->k, 1, INT32_MAX));
    TC_TRY(tc_check_pointer(rule->group_k, 4, "rule->group_k"));
  } else if (rule->group_k != NULL) {
    return tc_fail(TAILCUT_ERROR_CONFLICT,
                   "rule->group_k is given; expected NULL with the detector %s",
                   tailcut_detector_name(rule->detector));
  }
  if ((uses & TC_USES_RATIO) && rule->rounding == TAILCUT_DROP_PERCENT) {
    if (rule->percent == -1) return not_set("rule->percent", rule);
    TC_TRY(tc_check_int("rule->percent", rule->percent, 0, 100));
  } else if (uses & TC_USES_RATIO) {
    if (isnan(rule->ratio)) return not_set("rule->ratio", rule);
    TC_TRY(tc_check_double("rule->ratio", rule->ratio, 0.0, 1.0));
  }
  if (uses & TC_USES_TAU) {
    if (isnan(rule->tau)) return not_set("rule->tau", rule);
    if (isinf(rule->tau)) {
      return tc_fail(TAILCUT_ERROR_RANGE, "rule->tau is %g; expected a finite number",
                     (double)rule->tau);
    }
  }
  return TAILCUT_OK;
}

static __attribute__((noinline)) tailcut_status check_rule(const tailcut_rule *in,
                                                           tailcut_rule *out) {
  static const tailcut_rule defaults = TAILCUT_RULE_INITIALIZER;
  *out = defaults;
  if (in != NULL) TC_TRY(TC_IMPORT(out, in, rule, "rule"));
  TC_TRY(tc_check_enum("rule->detector", out->detector, 1, TC_DETECTOR_COUNT));
  TC_TRY(tc_check_enum("rule->scale", out->scale, TAILCUT_SCALE_DEFAULT, TAILCUT_SCALE_AUTO));
  TC_TRY(tc_check_enum("rule->rounding", out->rounding, TAILCUT_CEIL, TAILCUT_DROP_PERCENT));
  TC_TRY(tc_check_enum("rule->order", out->order, TAILCUT_HIGH, TAILCUT_LOW));
  TC_TRY(check_parameters(out));
  TC_TRY(tc_check_int("rule->window", out->window, 0, INT32_MAX));
  if (!isfinite(out->lambda)) {
    return tc_fail(TAILCUT_ERROR_RANGE, "rule->lambda is %g; expected a finite number",
                   out->lambda);
  }
  if (!(out->mass > 0.0 && out->mass <= 1.0)) {
    return tc_fail(TAILCUT_ERROR_RANGE, "rule->mass is %g; expected above 0, at most 1", out->mass);
  }
  TC_TRY(tc_check_int("rule->min_keep", out->min_keep, 0, INT32_MAX));
  if (out->max_keep != -1 && out->max_keep < out->min_keep) {
    return tc_fail(TAILCUT_ERROR_RANGE, "rule->max_keep is %d; expected -1 or at least min_keep %d",
                   out->max_keep, out->min_keep);
  }
  TC_TRY(tc_check_int("rule->round_to", out->round_to, 1, INT32_MAX));
  TC_TRY(tc_check_double("rule->search_lo", out->search_lo, 0.0, 1.0));
  TC_TRY(tc_check_double("rule->search_hi", out->search_hi, 0.0, 1.0));
  if (!(out->search_lo < out->search_hi)) {
    return tc_fail(TAILCUT_ERROR_RANGE, "rule->search_lo is %g; expected below search_hi %g",
                   out->search_lo, out->search_hi);
  }
  return tc_check_double("rule->spread", out->spread, 0.0, 1.0);
}

/* A denormal share is above 0, though the caller's mode may take it for 0. */
tailcut_status tc_check_rule(const tailcut_rule *in, tailcut_rule *out) {
  tc_mode saved;
  tc_mode_enter(&saved);
  const tailcut_status status = check_rule(in, out);
  tc_mode_leave(&saved);
  return status;
}
