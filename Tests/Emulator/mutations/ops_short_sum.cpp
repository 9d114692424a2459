// A planted fault. Products leave the last tile of their inputs out.
#define POLAR_MUTATION "last tile left out"
#include "../mutation_ops_begin.h"

namespace {
int short_piece(int tiles, int piece, int pieces) { return piece_start(tiles, piece, pieces) - (piece == pieces ? 1 : 0); }
}  // namespace

#define piece_start short_piece
#include "../mutation_ops_end.h"
