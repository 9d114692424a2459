// Internal, included after vec.h: rows of chosen neurons, for the selective MLP kernels for AVX-512.
//
// What is read comes from memory, in rows that lie anywhere, so what counts is how many lines are under way. A core can have about
// 128 and drops a fetch beyond that. So lines are fetched in the order in which they are used, evenly, and up to group_rows rows of
// activations three times: what was dropped at first is asked for again, and a line that is there already costs an instruction.

enum {
  group_rows = 8,     // most rows of activations of one register tile
  step_lines = 16,    // lines side by side, one of each row, for one group of rows
  near_steps = 4,     // how many steps before they are used lines are fetched for the last time,
  middle_steps = 8,   // for the second,
  far_steps = 16,     // and for the first time
  lines_ahead = 96,   // lines fetched for the last time before they are used, for several groups of rows
};

// The rows of `count` entries of the list from `first` on; those behind the last repeat it.
static void find_rows(
  const uint16_t **rows, const polar_selective_args *args, int64_t first, int64_t end, int64_t count
) {
  for (int64_t j = 0; j < count; j++) {
    const int64_t entry = first + j < end ? first + j : end - 1;
    rows[j] = args->weight + (args->indices ? args->indices[entry] : entry) * args->weight_stride;
  }
}

// Where a group of rows is `step` elements after `position`, all rows being passed side by side: in these rows, of `length`
// elements, or in the next group's.
typedef struct {
  const uint16_t *const *rows;
  int64_t position;
} place;

POLAR_ALWAYS_INLINE place ahead(
  const uint16_t *const *rows, const uint16_t *const *next, int64_t position, int64_t step, int64_t length
) {
  const int64_t to = position + step;
  if (to < length) return (place){rows, to};
  return (place){next, to < 2 * length ? to - length : position};
}
