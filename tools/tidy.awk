# tidy.awk - the rules of tools/tidy, for any POSIX awk.
#
# The first argument is the list of exceptions, the second families.def, the others are sources.
# Each line of a source is first split into code and comment; strings stay in the code as "". The
# rules then look at single lines, at functions (a brace at depth 0 whose statement has a
# parameter list), at whole files, and at last at the graph of includes.

function report(path, line, what) {
    printf "%s:%d: %s\n", path, line, what
    findings++
}

function allowed(path, what) {
    if (!((path SUBSEP what) in reason)) return 0
    used[path, what] = 1
    return 1
}

# ---- tables ----

function ban(names, instead,   list, i, n) {
    n = split(names, list, " ")
    for (i = 1; i <= n; i++) banned[list[i]] = instead
}

function may_include(folder, list,   at, i, n) {
    n = split(list, at, " ")
    layer[folder] = 1
    for (i = 1; i <= n; i++) below[folder, at[i]] = 1
}

BEGIN {
    WIDTH = 100; FILE_LINES = 1000; FUNCTION_LINES = 70; FAMILY_LINES = 120; FAMILY_MEDIAN = 50

    ban("strcpy stpcpy strcat strncpy strncat", "buf_str, or memcpy with a checked length")
    ban("sprintf vsprintf", "snprintf or buf_format")
    ban("gets", "buf_read_file, or fgets with a size")
    ban("strtok strtok_r strsep", "str_cut")
    ban("atoi atol atoll atof", "str_u64, cfg_int, pull_u64")
    ban("strtol strtoul strtoll strtoull", "str_u64: strtol takes signs, spaces and junk")
    ban("strtod strtof strtold", "pull_double or cfg_num: strtod follows the locale")
    ban("scanf sscanf fscanf vsscanf", "the pull reader, or str_u64")
    ban("alloca", "scratch of the pass, or mem_array")
    ban("rand srand random drand48", "the sampler's counter-based numbers")
    ban("localtime gmtime ctime asctime", "localtime_r and strftime")
    ban("system popen", "nothing: no shell is started from here")
    ban("tmpnam mktemp tempnam", "mkstemp or mkdtemp")
    ban("cudaMemcpy cudaMemset", "cudaMemcpyAsync on the stream: others are not in its order")
    ban("longjmp", "struct err: errors are values")

    talkers = "printf fprintf vprintf vfprintf puts fputs putchar putc fputc perror dprintf " \
              "exit _exit quick_exit getenv secure_getenv"
    n = split(talkers, list, " ")
    for (i = 1; i <= n; i++) talks[list[i]] = 1

    # Which folder may include which: DESIGN's arrows, downward only.
    may_include("base",     "base")
    may_include("device",   "base device")
    may_include("spec",     "base device spec")
    may_include("tokens",   "base tokens")
    may_include("sample",   "base sample")
    may_include("prompt",   "base tokens prompt")
    may_include("weights",  "base device spec weights")
    may_include("cache",    "base device cache")
    may_include("batch",    "base device cache tokens batch")
    may_include("layers",   "base device spec weights cache layers")
    may_include("media",    "base device spec weights layers media")
    may_include("families", "base spec weights layers media families")
    may_include("model", "base device spec weights cache tokens batch layers media families model")
    may_include("engine", "base device spec tokens sample prompt weights cache batch layers media " \
                          "families model engine")
    may_include("cli",      "base tokens sample prompt engine api cli")
    may_include("api",      "base tokens sample prompt engine api")
    may_include("main",     "base engine cli api main")

    nameless = "layers device cache batch sample api cli engine model"
    n = split(nameless, list, " ")
    for (i = 1; i <= n; i++) knows_no_family[list[i]] = 1

    # Slots of device_ops that are no arithmetic: the tests of a device use them all the time.
    n = split("open close describe alloc free copy_in copy_out move sync", list, " ")
    for (i = 1; i <= n; i++) plumbing[list[i]] = 1
}

# ---- the two lists ----

FILENAME == ARGV[1] {
    if ($0 ~ /^#/ || NF == 0) next
    if (NF < 3) report(FILENAME, FNR, "an exception needs a path, what is allowed, and a reason")
    reason[$1, $2] = FNR
    next
}

FILENAME == ARGV[2] {
    if (match($0, /FAMILY\([a-z0-9_]+\)/)) {
        name = substr($0, RSTART + 7, RLENGTH - 8)
        # A mechanism with the name of a family is not the family.
        family[name] = FNR
        if (name !~ /^mamba/) family_word[name] = 1
    }
    next
}

# ---- sources, line by line ----

FNR == 1 { end_file(); begin_file(FILENAME) }

{
    last_line = FNR
    if (length($0) > WIDTH) report(path, FNR, "longer than " WIDTH " columns")
    if (index($0, "\t")) report(path, FNR, "a tab")
    if ($0 ~ /[ ]$/) report(path, FNR, "blanks at the end of the line")
    code = strip($0)
    # Of the lines that say something: not blank, not braces alone.
    if (in_src && /[A-Za-z0-9]/) {
        lines_all++
        if (comment) lines_comment++
    }
    if ($0 ~ /^[ ]*$/) end_paragraph()
    else if (comment) paragraph_comment = 1
    # A continued directive is one, and its braces need not match.
    directive = continued || code ~ /^[ ]*#/
    continued = directive && $0 ~ /\\$/
    if (directive) directives($0, code)
    else follow_braces(code)
    calls(code)
    if (in_src && folder in knows_no_family) families_named(directive ? $0 : code_with_strings)
    if (path == "src/device/device.h") slots(code)
    if (path ~ /^tests\/kernels\//) words($0)
}

function begin_file(name,   parts) {
    path = name
    seen[path] = 1
    in_src = path ~ /^src\//
    is_header = path ~ /\.h$/ && path !~ /^tests\//
    split(path, parts, "/")
    folder = in_src ? folder_of(substr(path, 5)) : ""
    if (in_src && !(folder in layer))
        report(path, 1, "folder " folder " has no row of may_include in tools/tidy.awk")
    in_comment = continued = depth = in_ops = 0
    statement = ""
    paragraph_comment = undocumented = 0
    if ($0 !~ /^\/\*/) report(path, 1, "no comment that says what this file owns")
}

function folder_of(inner) {
    if (inner ~ /\//) return substr(inner, 1, index(inner, "/") - 1)
    sub(/[_.].*/, "", inner)
    return inner
}

function end_file() {
    if (path == "") return
    end_paragraph()
    if (last_line > FILE_LINES) report(path, last_line, "more than " FILE_LINES " lines")
    if (in_src && last_line > longest_file) { longest_file = last_line; longest_path = path }
    if (path ~ /^src\/families\/[a-z0-9_]+\.c$/ && path != "src/families/family.c") {
        if (last_line >= FAMILY_LINES)
            report(path, last_line, "a family has fewer than " FAMILY_LINES " lines")
        family_size[++n_families] = last_line
    }
    n_files++
}

# Returns the line without comments, literals emptied; sets comment when there was one, and
# code_with_strings.
function strip(rest,   out, at) {
    comment = in_comment
    out = code_with_strings = ""
    while (rest != "") {
        if (in_comment) {
            at = index(rest, "*/")
            if (!at) return out
            rest = substr(rest, at + 2)
            in_comment = 0
            continue
        }
        if (!match(rest, /\/\*|\/\/|["']/)) {
            code_with_strings = code_with_strings rest
            return out rest
        }
        out = out substr(rest, 1, RSTART - 1)
        code_with_strings = code_with_strings substr(rest, 1, RSTART - 1)
        rest = substr(rest, RSTART)
        if (rest ~ /^\/\*/) { in_comment = comment = 1; rest = substr(rest, 3); continue }
        if (rest ~ /^\/\//) { comment = 1; return out }
        if (!match(rest, /^"([^"\\]|\\.)*"/) && !match(rest, /^'([^'\\]|\\.)*'/)) return out
        out = out "\"\""
        code_with_strings = code_with_strings substr(rest, 1, RLENGTH)
        rest = substr(rest, RLENGTH + 1)
    }
    return out
}

function directives(raw, code,   what, at) {
    if (match(raw, /^[ ]*#[ ]*include[ ]*["<][^">]*[">]/)) {
        what = substr(raw, RSTART, RLENGTH)
        sub(/^[^"<]*/, "", what)
        includes(substr(what, 1, 1), substr(what, 2, length(what) - 2))
    }
    if (path !~ /^src\/device\/cpu\// && in_src && code ~ /__(AVX|ARM|SSE|FMA|F16C)/)
        report(path, FNR, "instruction sets are told apart under src/device/cpu only")
}

function includes(kind, what) {
    if (what ~ /^(cuda|cublas|cudnn|nccl|nvrtc|cooperative_groups)/ && path !~ /^src\/device\/cuda\//)
        report(path, FNR, "<" what "> is for src/device/cuda only")
    if (what ~ /^(immintrin|x86intrin|arm_neon|arm_sve)\.h$/ && in_src &&
        path !~ /^src\/(device\/cpu\/|sample\/row_)/)
        report(path, FNR, "<" what "> is for src/device/cpu and src/sample/row_*.c only")
    if (kind != "\"" || !in_src) return
    edge[path, ++n_edges[path]] = "src/" what
    if (folder in layer && folder_of(what) in layer && !((folder SUBSEP folder_of(what)) in below))
        report(path, FNR, folder " may not include " what ": dependencies point downward")
}

# Functions and prototypes: what stands before a brace or semicolon at depth 0.
function follow_braces(code,   i, c, n) {
    if (depth == 0 && statement == "") statement_line = FNR
    n = length(code)
    if (code !~ /[{};]/) { if (depth == 0) statement = statement code " "; squeeze(); return }
    for (i = 1; i <= n; i++) {
        c = substr(code, i, 1)
        if (c == "{") {
            if (depth++ == 0) begin_body()
        } else if (c == "}") {
            if (--depth == 0) end_body()
            if (depth < 0) depth = 0
        } else if (depth == 0) {
            if (c == ";") { prototype(); statement = "" }
            else statement = statement c
        }
    }
    squeeze()
}

function squeeze() { if (statement ~ /^[ ]*$/) statement = "" }

function begin_body() {
    function_name = ""
    if (statement !~ /\(/ || statement ~ /=/) return
    gsub(/__attribute__[ ]*\(\([^;]*\)\)/, "", statement)
    if (match(statement, /[A-Za-z_][A-Za-z0-9_]*[ ]*\(/)) {
        function_name = substr(statement, RSTART, RLENGTH - 1)
        sub(/[ ]+$/, "", function_name)
        function_line = statement_line
    }
}

function end_body(   n) {
    if (function_name != "") {
        n = FNR - function_line + 1
        if (n > FUNCTION_LINES && !allowed(path, "long:" function_name))
            report(path, function_line, function_name " has " n " lines, more than " FUNCTION_LINES)
        if (in_src && n > longest_function) {
            longest_function = n
            longest_name = function_name " of " path
        }
        statement = ""
    }
    function_name = ""
}

function prototype() {
    if (in_src && statement ~ /^[ ]*typedef[ ]+(struct|union)/)
        report(path, FNR, "a typedef hides a struct: write struct")
    if (!is_header || statement !~ /[a-z0-9_][ ]*\(/ || statement ~ /typedef|=|_Static_assert/) return
    if (!undocumented) undocumented = FNR
}

# A prototype is documented by a comment of its own or of the lines it stands with.
function end_paragraph() {
    if (undocumented && !paragraph_comment)
        report(path, undocumented, "exported, and no comment here says what it does")
    undocumented = paragraph_comment = 0
}

function calls(code,   rest, name) {
    if (code !~ /\(/) return
    rest = code
    while (match(rest, /[A-Za-z_][A-Za-z0-9_]*[ ]*\(/)) {
        name = substr(rest, RSTART, RLENGTH - 1)
        sub(/[ ]+$/, "", name)
        # x->free(...) and x.exit(...) are slots, not the C library's.
        if (RSTART < 2 || substr(rest, RSTART - 1, 1) !~ /[.>]/) call(name)
        rest = substr(rest, RSTART + RLENGTH)
    }
}

function call(name) {
    if (name in banned && !allowed(path, "call:" name))
        report(path, FNR, name " is banned; use " banned[name])
    if (in_src && name in talks && folder != "cli" && folder != "main" && path != "src/base/log.c" &&
        !allowed(path, "call:" name))
        report(path, FNR, name " outside of cli/, main.c and base/log.c; return an err, or log_line")
}

function families_named(text,   list, n, i, w) {
    text = tolower(text)
    # What another server's variables are called is no family.
    gsub(/llama_(arg|api)_/, "", text)
    n = split(text, list, /[^a-z0-9_]+/)
    for (i = 1; i <= n; i++)
        for (w in family_word)
            if (index("_" list[i] "_", "_" w "_"))
                report(path, FNR, "names the family " w ": only families/ knows families")
}

function slots(code,   name) {
    if (code ~ /^struct device_ops \{/) in_ops = 1
    else if (code ~ /^\}/) in_ops = 0
    if (in_ops && match(code, /\(\*[a-z0-9_]+\)\(/)) {
        name = substr(code, RSTART + 2, RLENGTH - 4)
        if (!(name in plumbing)) slot[name] = FNR
    }
}

function words(text,   list, n, i) {
    n = split(text, list, /[^A-Za-z0-9_]+/)
    for (i = 1; i <= n; i++) in_kernel_tests[list[i]] = 1
}

# ---- what only shows when all is read ----

# Depth first; colour 1 is on the way, 2 is done.
function visit(file,   i, next_file) {
    colour[file] = 1
    for (i = 1; i <= n_edges[file]; i++) {
        next_file = edge[file, i]
        if (colour[next_file] == 1) report(file, 1, "includes " next_file ", which includes it")
        else if (!colour[next_file] && next_file in n_edges) visit(next_file)
    }
    colour[file] = 2
}

function median(   i, j, t) {
    for (i = 2; i <= n_families; i++)
        for (j = i; j > 1 && family_size[j - 1] > family_size[j]; j--) {
            t = family_size[j]; family_size[j] = family_size[j - 1]; family_size[j - 1] = t
        }
    return family_size[int((n_families + 1) / 2)]
}

function has_folder(name,   list, n, i) {
    n = split(folders, list, " ")
    for (i = 1; i <= n; i++)
        if (list[i] == name || index(list[i], name "_") == 1 || index(list[i], name "-") == 1) return 1
    return 0
}

END {
    end_file()
    for (f in n_edges) if (!colour[f]) visit(f)
    if (n_families && median() >= FAMILY_MEDIAN)
        report("src/families", 1, "the median family has " median() " lines, not under " FAMILY_MEDIAN)
    for (f in family)
        if (!has_folder(f)) report(ARGV[2], family[f], f " has no vectors in tests/families")
    for (s in slot)
        if (!(s in in_kernel_tests))
            report("src/device/device.h", slot[s], "no test in tests/kernels names the op " s)
    for (entry in reason) {
        split(entry, parts, SUBSEP)
        if (!(entry in used)) report(ARGV[1], reason[entry], parts[1] " " parts[2] " allows nothing")
    }
    share = lines_all ? int(100 * lines_comment / lines_all) : 0
    if (lines_all > 2000 && (share < 10 || share > 25))
        report("src", 1, share " % of the lines have comments, not 10 to 25 %")
    printf "tidy: %d files, %s; longest file %d (%s), longest function %d (%s), comments %d %%\n",
           n_files, findings ? findings " findings" : "clean", longest_file, longest_path,
           longest_function, longest_name, share
    exit findings > 0
}
