/* access.h - who may ask: API keys, Host names, origins of web pages, and how much one key may
 * have running. */
#pragma once
#include "api/exchange.h"

struct access;
/* The keys and names of the options, copied. */
struct access *access_open(const struct server_options *, struct err *);
void access_close(struct access *);

struct key_account;                  /* a key's, or the common one when there are no keys */
/* `authorization`, `x_api_key`, `api_key` are headers, NULL when missing; `twice`: one of them came
 * twice. NULL: wrong or missing, which is not told apart. Constant time in the keys. */
struct key_account *access_key(struct access *, const char *authorization, const char *x_api_key,
                               const char *api_key);
uint64_t account_id(const struct key_account *);          /* engine's client and cache salt */
/* Counts one more running request; false: over the key's limit. */
bool account_begin(struct access *, struct key_account *);
void account_end(struct access *, struct key_account *);

/* The Host header of a request to a socket of ours; `local`: a Unix socket or a handed-in one.
 * False: neither a loopback name, nor an address we are bound to, nor allowed. */
bool access_host(const struct access *, const char *host, bool local);
/* Whether pages of this origin get CORS headers. NULL: none is named. The string to echo. */
const char *access_origin(const struct access *, const char *origin);
