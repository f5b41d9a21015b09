#!/bin/sh
# A checkpoint that is fine, and then broken in one way at a time: the program must end with the
# right code and one line that names the file and what is wrong with it, and never crash.
set -u
bin=${MLXCEL:-build/mlxcel}
synth=${MLXCEL_BUILD:-build}/tools/synth
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
failed=0 n=0 good=$root/good dir=$root/model

cat >"$root/config.json" <<'EOF'
{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128, "rms_norm_eps": 1e-5,
 "max_position_embeddings": 64, "tie_word_embeddings": true}
EOF
"$synth" --config "$root/config.json" --bits 4 --group 32 -o "$good" 2>/dev/null || exit 1
"$synth" --config "$root/config.json" -o "$root/plain" 2>/dev/null || exit 1

fresh() { rm -rf "$dir"; cp -r "$good" "$dir"; }
# edit KEY TEXT: replaces the text KEY of config.json.
edit() { fresh; sed "s/$1/$2/" "$good/config.json" >"$dir/config.json"; }
# wants CODE WORDS COMMAND...: how a command must end, with one line of that.
wants() {
    n=$((n + 1))
    want=$1 words=$2
    shift 2
    "$bin" "$@" -m "$dir" >"$root/out" 2>"$root/err" </dev/null
    code=$?
    lines=$(wc -l <"$root/err")
    if [ "$code" -ne "$want" ] || ! grep -qF -- "$words" "$root/err" || [ "$lines" -ne 1 ]; then
        echo "FAIL: wanted $want \"$words\", got $code: $(cat "$root/err")"
        failed=1
    fi
}

for model in "$good" "$root/plain"; do
    "$bin" inspect -m "$model" >/dev/null || { echo "FAIL: $model is refused"; failed=1; }
done

fresh; head -c 1000 "$good/model.safetensors" >"$dir/model.safetensors"
wants 1 "model.safetensors: not a safetensors file" inspect
wants 1 "model.safetensors: not a safetensors file" generate --ids 1,2 -n 1
fresh; size=$(wc -c <"$good/model.safetensors"); truncate -s $((size - 1)) "$dir/model.safetensors"
wants 1 "model.safetensors: tensor" inspect
fresh; truncate -s $((size + 1)) "$dir/model.safetensors"
wants 1 "1 bytes after the last tensor" inspect
fresh; : >"$dir/model.safetensors"
wants 1 "model.safetensors: the file is empty" inspect
fresh; echo "version https://git-lfs.github.com/spec/v1" >"$dir/model.safetensors"
wants 1 "Git LFS pointer" inspect
fresh; rm "$dir/model.safetensors"
wants 3 "no model.safetensors" inspect
fresh; rm "$dir/model.safetensors"; mkfifo "$dir/model.safetensors"
wants 1 "not a regular file" inspect
fresh; rm "$dir/model.safetensors"; ln -s "$good/model.safetensors" "$dir/model.safetensors"
wants 1 "a link out of its directory" inspect

edit '"num_hidden_layers": 2' '"num_hidden_layers": 3'
wants 1 "the tensor model.layers.2.input_layernorm.weight is missing" inspect
edit '"hidden_size": 64' '"hidden_size": 96'
wants 1 "model.safetensors: tensor model.embed_tokens.weight is U32" inspect
edit '"vocab_size": 128' '"vocab_size": 129'
wants 1 "model.safetensors: tensor model.embed_tokens.weight is U32" inspect
edit '"bits":4' '"bits":8'
wants 1 "packed with 4 bits" inspect
edit '"bits":4' '"bits":4,"quant_method":"awq"'
wants 4 '"awq"' inspect
edit '"tie_word_embeddings": true' '"tie_word_embeddings": false'
wants 1 "the tensor lm_head.weight is missing" inspect
edit '"llama"' '"nonesuch"'
wants 1 '"nonesuch" is not supported' inspect
edit '"hidden_size": 64' '"hidden_size": 64, "hidden_size": 64'
wants 1 'config.json: duplicate key "hidden_size"' inspect

fresh; rm "$dir/config.json"
wants 1 "config.json: No such file" inspect
dir=$root/nowhere
wants 3 "nowhere" inspect

echo "$n checkpoints refused"
exit $failed
