/* mlp.h - the feed-forward network, for those that hold one inside another part. */
#pragma once
#include "layers/layers.h"

struct mlp {
    struct linear gate, up, down;    /* [hidden, dim] twice, [dim, hidden]; gate only when gated */
    struct tensor norm;              /* [hidden], with inner_norm */
};

/* slot: of gate, up and down. */
void mlp_bind(struct binder *, const struct decoder_spec *, const struct mlp_spec *,
              const enum slot slot[3], struct mlp *);
/* y [rows, dim] from x [rows, dim]; scratch is left to the block. */
void mlp_run(struct pass *, const struct mlp_spec *, const struct mlp *, struct tensor *y,
             const struct tensor *x);
