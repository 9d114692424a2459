// A planted fault. Row i of a result comes from row i, whatever the list says.
#define POLAR_MUTATION "row list ignored"
#include "../mutation_training_begin.h"

namespace {
int own_row(PolarAddress, int i) { return i; }
}  // namespace

#define listed_row own_row
#include "../mutation_training_end.h"
