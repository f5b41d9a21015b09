/* load.h - a checkpoint on its way to a model: what model_open and model_inspect share. */
#pragma once
#include "model/model.h"

struct loaded {
    struct arena arena;              /* spec, bound weights, small copies */
    struct config *config;
    const struct family *family;
    struct decoder_spec spec;
    struct weights *weights;
    struct binder *binder;           /* alive between load_bind and load_finish */

    struct tensor embed;             /* [vocab, dim] */
    struct tensor positions;         /* [positions, dim]; at NULL: none */
    struct norm_weights embed_norm, final_norm;
    struct linear head;              /* [vocab, dim]; the embedding when tied */
    struct block_weights *block;     /* [n_layers] */
};

/* config.json to a checked spec. */
bool load_spec(struct loaded *, const char *dir, struct err *);
/* Maps the weights and binds every tensor; progress may be NULL. Leftovers are checked by
 * load_finish, so that inspect can look at the claims before. */
bool load_bind(struct loaded *, const char *dir, struct device *,
               void (*progress)(void *, double), void *to, struct err *);
/* Reports every tensor this spec asks for, without any file; see binder_record. */
bool load_record(struct loaded *, bind_want *, void *to, struct err *);
/* How many values the spec's tensors hold, however they are stored. */
int64_t load_params(const struct loaded *);
bool load_finish(struct loaded *, struct err *);
/* Between load_bind and load_finish, for a model that will run: see binder_pack. */
void load_pack(struct loaded *, const struct pack_place *, void (*progress)(void *, double),
               void *to);
void load_close(struct loaded *);
/* [n_layers] what each layer keeps. */
void load_need(const struct loaded *, struct state_need *, enum dtype kv);
