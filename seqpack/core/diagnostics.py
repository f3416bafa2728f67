"""Every diagnostic code, with the page that ``seqpack explain CODE`` prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """What a code means, why it comes up, and what to do."""

    title: str
    cause: str
    remedy: str


DIAGNOSTICS: dict[str, Diagnostic] = {
    # 0xx: how the command was called
    "SP001": Diagnostic(
        "the command line cannot be understood",
        "A command or flag does not exist, a value is missing, or it is not of the right kind.",
        "Look at `seqpack COMMAND --help`; the error names the nearest flag there is.",
    ),
    "SP002": Diagnostic(
        "no component has this name",
        "--handler, --prompt-type or --strategy names something that neither seqpack nor an installed plugin offers. "
        "seqpack never falls back to another one: the data would be made with the wrong rules and look fine.",
        "`seqpack plugins` lists all names, and the plugins that could not be loaded.",
    ),
    "SP003": Diagnostic(
        "the configuration file is wrong",
        "The YAML file of --config cannot be read, or has a key or value that is not an option of this command.",
        "Keys are the flags without dashes in front; `-` and `_` are the same. `seqpack COMMAND --help` lists them.",
    ),
    "SP004": Diagnostic(
        "the output exists",
        "Nothing is replaced unless you say so.",
        "Choose another output, or add --overwrite.",
    ),
    "SP008": Diagnostic(
        "packing needs a length",
        "--pack and --neat-pack fill sequences of --seq-length tokens, which was not given.",
        "Add --seq-length. `seqpack stats` shows what each length would cost.",
    ),
    "SP009": Diagnostic(
        "a kind of file that cannot be read",
        "The ending of the file's name is none of those seqpack reads: .jsonl, .json, .csv and .txt, also with .gz or "
        ".zst behind, .parquet and .arrow.",
        "Convert it, for example to .jsonl: one JSON object per line.",
    ),
    "SP010": Diagnostic(
        "--map-keys cannot be used",
        "It is not a JSON object, or names a part that the handler does not have.",
        'Write --map-keys \'{"prompt": "question", "response": "answer"}\': parts of a sample to columns of your data.',
    ),
    "SP011": Diagnostic(
        "a plugin was written for another plugin API",
        "Its SEQPACK_PLUGIN_API is not the number this seqpack offers.",
        "Install a version of the plugin, or of seqpack, that fits.",
    ),
    "SP012": Diagnostic(
        "a plugin cannot be loaded",
        "Importing it, or what one of its components points to, failed.",
        "`seqpack plugins` prints the reason. SEQPACK_LOAD_PLUGINS=a,b loads only those; empty, none.",
    ),
    "SP013": Diagnostic(
        "two plugins offer the same name",
        "Which one you mean cannot be known, so the plugin that came second is not used.",
        "Uninstall one, or select the plugins to load with SEQPACK_LOAD_PLUGINS.",
    ),
    "SP014": Diagnostic(
        "a packing strategy made a wrong plan",
        "Every plan is checked: each sample placed once and whole (a strategy that states it may cut: every token "
        "once), no pack over the length, none empty.",
        "Choose another --strategy; report it to the author of the plugin the message names.",
    ),
    "SP015": Diagnostic(
        "a template file is wrong",
        "It has an unknown or missing key, or a value that is not text, or a part without {{content}}.",
        "Compare it with the files in templates/ of seqpack.",
    ),
    "SP016": Diagnostic(
        "template and tokenizer do not fit",
        "The template is made of control tokens the tokenizer does not have; it would cut them into pieces, and the "
        "model would learn to end its replies with text instead of its end token.",
        "Choose the --prompt-type that belongs to this model.",
    ),
    "SP017": Diagnostic(
        "no such file of templates, or no chat template",
        "--prompt-type-path names nothing that holds templates, or --prompt-type chat-template was asked of a "
        "tokenizer that has none, or one that is not valid Jinja.",
        "Give a .yaml file (CONTRIBUTING.md shows one), a .jinja file, MindSpeed-LLM's templates.json, or a folder.",
    ),
    "SP018": Diagnostic(
        "a chat template that marks nothing as generated",
        "It has {% generation %} marks, but they enclose no text of a sample that has replies: nothing would be "
        "learnt.",
        "Put the marks around all that the assistant says. Without any marks, seqpack finds the replies itself.",
    ),
    "SP019": Diagnostic(
        "options of labels or thoughts contradict each other",
        "Two flags ask for different tokens to be trained on, or --enable-thinking is given for a template that has no "
        "thoughts.",
        "Give one of --train-on, --train-on-prompt and --mask-history; --enable-thinking only where it means "
        "something.",
    ),
    "SP020": Diagnostic(
        "a flag that the handler does not use",
        "--map-keys, --json-keys or --dataset-dir was given, or holds something, that means nothing to this --handler.",
        "Leave the flag out, or choose the handler it is meant for: --json-keys goes with pretraining text, "
        "--dataset-dir with LlamaFactoryInstructionHandler.",
    ),
    "SP021": Diagnostic(
        "a dataset handler contradicts itself",
        "What it says of the kind of set it makes (`kind`, `text_keys`, `column_names`) does not go together.",
        "Report it to the author of the plugin, whose tests find it with the suite in seqpack.testing.",
    ),
    "SP022": Diagnostic(
        "a data set of dataset_info.json cannot be used",
        "The name is not in the file, or its entry asks for something that is not supported: a data set on a hub, "
        "ranking data, keys that are not known.",
        "The message names entry and key. An entry has file_name, formatting, columns and tags.",
    ),
    "SP026": Diagnostic(
        "a flag that only means something for compatibility",
        "--pad-to-multiple-of changes what is written only where another system's files are reproduced.",
        "Leave it out, or add --compat mindspeed.",
    ),
    "SP027": Diagnostic(
        "compatibility does not cover this",
        "--compat mindspeed reproduces files byte for byte, so it refuses what it has no exact rules for.",
        "Leave --compat out: seqpack's own rules cover all handlers.",
    ),
    "SP028": Diagnostic(
        "a flag that would do nothing",
        "What was asked for has no place in this run, such as --strategy where nothing is packed.",
        "Leave the flag out, or add the one it belongs to; the message names it.",
    ),
    "SP029": Diagnostic(
        "a flag of another system that is not supported",
        "MindSpeed-LLM, Megatron or Pai-Megatron-Patch have this flag, and leaving it out would change the data.",
        "The message says what to do instead.",
    ),
    "SP030": Diagnostic(
        "no such share",
        "--shard-index counts from 0 and must be below --num-shards; the one means nothing without the other.",
        "Give both, or run under srun or torchrun, whose variables say both.",
    ),
    "SP031": Diagnostic(
        "packing options that do not go together",
        "--align, --max-docs and the mask flags are refused where the chosen strategy or length cannot honour them, or "
        "where two of them ask for different things.",
        "The message names the flag to change.",
    ),
    # 1xx: data
    "SP101": Diagnostic(
        "input not found",
        "There is no such file or folder, the folder or pattern has nothing that can be read, or a data set of the "
        "Hugging Face hub cannot be loaded. A name is looked up on the hub only if it reads org/name and there is no "
        "folder org here, or if it is written hf:org/name.",
        "Check the path; shell variables and ~ are expanded by the shell only outside quotes.",
    ),
    "SP102": Diagnostic(
        "rows were left out",
        "Some rows cannot be used; PREFIX_packed_rejects.jsonl names each with its reason. If their share is above "
        "--max-drop, the command stops with exit code 4 and writes nothing.",
        "Mend the data, or raise --max-drop if the loss is intended.",
    ),
    "SP103": Diagnostic(
        "a data file cannot be read",
        "The named line is not valid JSON or CSV or not UTF-8, a key or column comes twice, a row is longer than "
        "256 MiB, or the file is damaged or cut off. Which rows would be missing cannot be known, so none is used.",
        "Mend or delete that line, or make the file again.",
    ),
    "SP104": Diagnostic(
        "not a usable tokenizer directory",
        "It lacks tokenizer.json, or the file cannot be loaded.",
        "Save the tokenizer with transformers: AutoTokenizer.from_pretrained(NAME).save_pretrained(DIR).",
    ),
    "SP105": Diagnostic(
        "a data set file is damaged",
        "A file is cut off, missing, or not what the manifest says.",
        "Make the set again, or copy it again: sizes and SHA-256 of all files are in its manifest.",
    ),
    "SP106": Diagnostic(
        "no manifest",
        "The manifest is the last file that is written, so a set without one is unfinished or from another program. "
        "Without it the boundaries of the samples are not known, and guessing them from token ids goes wrong.",
        "Give the prefix that was --output-prefix, or make the set again with `seqpack preprocess`.",
    ),
    "SP107": Diagnostic(
        "a handler failed",
        "A handler met a row it did not expect and raised an error other than RejectError.",
        "Mend the row the message names, or the handler.",
    ),
    "SP108": Diagnostic(
        "a sample is longer than --seq-length",
        "Under --on-overlong error the first such sample stops the run; and so does a group of --pregrouped whose "
        "samples do not fit together.",
        "Raise --seq-length, or choose --on-overlong truncate, split or drop.",
    ),
    "SP109": Diagnostic(
        "nothing to work with",
        "The files have no rows, or none of their rows can be used.",
        "The message counts the reasons. Check --input, --handler and --map-keys; --seq-length may be too small.",
    ),
    "SP110": Diagnostic(
        "the data have other columns",
        "The first row of a file lacks a column the handler needs.",
        "Name your columns with --map-keys, or choose another --handler.",
    ),
    "SP111": Diagnostic(
        "samples were truncated",
        "Samples longer than --seq-length lost their last turns, or were cut inside their texts; headers and the "
        "token that ends the reply are kept, and the number of lost tokens is in the ledger. Under --on-overlong split "
        "only turns that are too long by themselves are lost.",
        "Raise --seq-length, or choose --on-overlong split, drop or error; --split-sft also splits replies.",
    ),
    "SP112": Diagnostic(
        "no such pack or row",
        "--pack is counted from 0 and must be below the number of packs. --sample names FILE:LINE of the raw data: a "
        "file the set was made from, and a row that is in the set or among its rejects.",
        "Choose a smaller number; the message lists the files of the set. Blank lines have no row.",
    ),
    "SP113": Diagnostic(
        "something in the input was not read",
        "A folder or pattern also has files of a kind seqpack does not read, files that hold no rows (a manifest, a "
        "dataset_info.json), or subfolders, which are not searched.",
        "Nothing, if they are no data. Convert the files, or name subfolders: 'DIR/**/*' takes all below DIR.",
    ),
    "SP114": Diagnostic(
        "a file is read more than once",
        "Two of the names given to --input lead to the same file, so its rows are in the data as often.",
        "Nothing, if that is meant. Else name the file once.",
    ),
    "SP115": Diagnostic(
        "text was mended",
        r"JSON can spell half of a surrogate pair, such as \ud83d without its other half. That is no Unicode character "
        "and no tokenizer takes it, so U+FFFD is put in its place; the rejects file beside the result names the rows.",
        "Nothing, or mend the rows: the program that wrote them cut an emoji in two.",
    ),
    "SP116": Diagnostic(
        "lengths that cannot be planned",
        "Lengths of samples are whole numbers, at least 1. The message says what was found, and where.",
        "Correct the file of --lengths, or leave samples without tokens out.",
    ),
    "SP117": Diagnostic(
        "a plan for other data",
        "A plan names samples by number. This one was made for samples of other lengths, or the file was changed; used "
        "here it would place the wrong samples.",
        "Make the plan again from this data set: `seqpack pack SET --plan-only`.",
    ),
    "SP118": Diagnostic(
        "a fast tokenizer engine was refused",
        "Before fastokens or gigatoken is used, it encodes a slice of your data beside `tokenizers`. It could not load "
        "this tokenizer, or some ids were different. `tokenizers` did the work: the data are right, it took longer.",
        "Nothing needs to be done. --tokenizer-engine tokenizers keeps the message away; the verdict is remembered in "
        "engines.json in the folder seqpack of your cache ($XDG_CACHE_HOME or ~/.cache), which you may delete.",
    ),
    "SP120": Diagnostic(
        "a conversation reads otherwise when it goes on",
        "The tokens up to some reply are not the same once more turns follow, or not those that ask the model for it, "
        "as with templates that remove the thoughts of earlier replies. Training on all replies of a conversation then "
        "shows the model another context "
        "than it will see.",
        "Train on the last reply only (--train-on last), or choose a template that leaves earlier turns as they are.",
    ),
    "SP121": Diagnostic(
        "the end of a reply is not trained on",
        "After the last trained token of a reply there is no end token with a label, so the model does not learn to "
        "stop.",
        "Choose the template of this model. A chat template must have the end token inside its generation marks.",
    ),
    "SP131": Diagnostic(
        "--handler auto cannot decide",
        "The columns of the first rows fit no handler or several, or the files are of several kinds. Read by the wrong "
        "handler, data look fine and are not.",
        "Choose the --handler; name columns with --map-keys or --json-keys; make a set of each kind on its own.",
    ),
    "SP132": Diagnostic(
        "pretraining text where samples are needed",
        "The set, or what the handler makes, is text for pretraining: documents without labels and without packs.",
        "Train on it with Megatron's pretraining; for instruction tuning choose the --handler of a conversation.",
    ),
    "SP133": Diagnostic(
        "pretraining text cannot be packed yet",
        "--pack and --neat-pack place samples side by side; documents are one stream that Megatron's pretraining cuts.",
        "Leave out --pack and --neat-pack.",
    ),
    "SP134": Diagnostic(
        "preference pairs or prompts where samples are needed",
        "The set, or what the handler makes, is pairs of a chosen and a rejected answer, or prompts without answers. "
        "They have file pairs of their own and are read one by one, so they cannot be packed, measured or trained on "
        "here.",
        "Use them with a trainer for preferences (DPO) or reinforcement learning; for instruction tuning choose the "
        "--handler of a conversation, and leave out --pack and --neat-pack for the others.",
    ),
    "SP135": Diagnostic(
        "a dry run could not check everything",
        "A file, data set or tokenizer that the command line names is not on this machine, so only its flags were "
        "checked. A real run would stop there.",
        "Nothing, if the command is meant for another machine; else mend the path.",
    ),
    "SP136": Diagnostic(
        "a row that compatibility cannot reproduce",
        "Under --compat mindspeed a row was met at which MindSpeed-LLM's own program stops, or for which its rules are "
        "not known.",
        "Mend or remove the row, or leave --compat out: by seqpack's own rules it is used, or counted as a reject.",
    ),
    "SP140": Diagnostic(
        "the same sample several times",
        "Samples with the same tokens and labels as an earlier one count several times in training. stats compares "
        "those that are kept whole.",
        "Leave all but the first out with --dedup exact, unless they are meant to count more.",
    ),
    "SP141": Diagnostic(
        "a kind of set that this command cannot read",
        "The manifest says that the set holds something else than samples with labels or pretraining text.",
        "The message names the kind. A newer version of seqpack may read it.",
    ),
    # 2xx: training
    "SP201": Diagnostic(
        "samples cannot be kept apart",
        "The chosen attention cannot honour the mask of this data on this device.",
        "Choose another --attention.",
    ),
    "SP202": Diagnostic(
        "model family not supported",
        "Packed training is only offered for models on which it equals one-by-one training: the tested families, and "
        "others for which a tiny random copy of the model gives the same logits and gradients.",
        "The message says what differs, or names the families.",
    ),
    "SP203": Diagnostic(
        "an isolation flag contradicts the data",
        "--neat-pack, --reset-position-ids and --reset-attention-mask all ask that samples in a pack do not see each "
        "other; that is decided when the data are packed.",
        "Pack again with --neat-pack: `seqpack pack PREFIX --neat-pack ...` does it without tokenizing again.",
    ),
    "SP204": Diagnostic(
        "the loss is not finite",
        "A step's loss became NaN or infinite; going on would only spoil the weights.",
        "Lower --lr, use --dtype float32, look at the samples of that step.",
    ),
    "SP205": Diagnostic(
        "nothing to train on",
        "No token of the data has a label.",
        "Look at a pack with `seqpack show`, and make the data again.",
    ),
    "SP206": Diagnostic(
        "the model directory cannot be used",
        "It lacks config.json or weights, or they cannot be loaded.",
        "Give a Hugging Face model directory, a preset such as tiny:qwen2, or add --random-init.",
    ),
    "SP207": Diagnostic(
        "the model's vocabulary is too small",
        "The data have token ids that the model has no embedding for.",
        "Use the tokenizer of the model when preprocessing.",
    ),
    "SP208": Diagnostic(
        "training options contradict each other",
        "A value is out of range or two options exclude each other.",
        "The message names them.",
    ),
    "SP209": Diagnostic(
        "a checkpoint cannot be used",
        "A file of it is missing, cut off or damaged, or there is no run in that directory.",
        "Remove the checkpoint that the message names to go on from the one before it.",
    ),
    "SP210": Diagnostic(
        "a run goes on with something else",
        "Data, order, model or number format are not those the checkpoint was made with.",
        "Change back what the message names, or start a new run with another --save.",
    ),
    "SP211": Diagnostic(
        "documents are kept apart without end tokens, or the other way round",
        "--append-eod when the text is made and --reset-attention-mask when it is trained on belong together.",
        "Make the text with --append-eod; seqpack train then keeps documents apart by itself.",
    ),
    "SP212": Diagnostic(
        "there is no model to verify",
        "seqpack verify takes a small copy of the model with random weights, or under --full-size the model itself; "
        "the copy could not be built, or the model has no weights.",
        "The message says which; choose the other one.",
    ),
    "SP230": Diagnostic(
        "flags describe another model",
        "Flags such as --num-layers and --hidden-size, which Megatron builds a model from, are compared with "
        "config.json of --model, which decides here.",
        "Leave them out, or name the model that they describe.",
    ),
    # 3xx: manifest
    "SP301": Diagnostic(
        "made of something else",
        "A data set, or parts of one, of this name was made with another template, tokenizer, handler, option, version "
        "of seqpack or other files; the message names what changed.",
        "Replace it with --overwrite, or choose another --output-prefix.",
    ),
    "SP302": Diagnostic(
        "data and model have different tokenizers",
        "The same ids mean other tokens to the model than to the data.",
        "Preprocess the data with the model's tokenizer.",
    ),
    "SP303": Diagnostic(
        "two runs want the same output",
        "Another process is writing the data set of this name; together they would spoil it.",
        "Wait for the other run, or choose another --output-prefix; to share the work, give both --shard-index.",
    ),
    "SP304": Diagnostic(
        "parts are missing",
        "A data set is made when every part of the data is tokenized, and some are not, or none are here.",
        "Run preprocess again with the same options: it makes what is missing. Then merge.",
    ),
    # 4xx: weights
    "SP401": Diagnostic(
        "a checkpoint file is missing or damaged",
        "A file is missing, cut short or unreadable, an index disagrees with the files, or the tracker is wrong.",
        "Download or copy it again; check that the right directory was named.",
    ),
    "SP402": Diagnostic(
        "model family cannot be converted",
        "Weights are only converted by a table that names every parameter of the family.",
        "The message lists the families there are.",
    ),
    "SP403": Diagnostic(
        "parameters are missing or left over",
        "The weights do not have exactly the parameters that config.json implies; none is ever ignored.",
        "Check that config.json belongs to these weights, above all tie_word_embeddings.",
    ),
    "SP404": Diagnostic(
        "shapes or types do not fit",
        "A parameter has another shape or type than config.json implies, the checkpoint's args contradict it, or the "
        "weights are quantized.",
        "Name the right model with --hf-dir, or save the weights in one floating-point type.",
    ),
    "SP405": Diagnostic(
        "tied embeddings that differ",
        "config.json says that head and embedding are one, but the files hold two different ones.",
        "Set tie_word_embeddings to false in config.json if the head is meant to be its own.",
    ),
    "SP406": Diagnostic(
        "a checkpoint layout that is not known",
        "Checkpoints are kept in several layouts, and this version does not read or write this one.",
        "Save it in one of the layouts torch and torch_dist (--ckpt-format).",
    ),
    "SP407": Diagnostic(
        "no config.json for the way back",
        "A Megatron checkpoint has no Hugging Face config and tokenizer files, and none were found beside it.",
        "Name the directory of the original model with --hf-dir.",
    ),
    "SP408": Diagnostic(
        "verification failed",
        "What was read back is not what was to be written; nothing was published.",
        "Check the disk; if it happens again, report it.",
    ),
    "SP409": Diagnostic(
        "an activation that cannot be converted",
        "Only SwiGLU models (hidden_act silu) have a counterpart.",
        "Convert another model.",
    ),
    "SP410": Diagnostic(
        "--max-shard-size is not a size",
        "It is a number with a unit.",
        "Write 500MB, 4GB or 2GiB.",
    ),
    "SP411": Diagnostic(
        "ranks of a checkpoint disagree",
        "The args say another number of ranks than there are files, or what each rank repeats is not the same on all.",
        "A rank is missing or files of two checkpoints are mixed: copy it again, or save it again from one run.",
    ),
    "SP412": Diagnostic(
        "a weight is too large for its new type",
        "float16 ends at 65504; a larger number would become infinite.",
        "Choose --params-dtype bf16 or fp32, or leave the flag out to keep the type.",
    ),
    "SP413": Diagnostic(
        "a flag contradicts the model",
        "Family, sizes and split of the source are read from its files; a flag says something else.",
        "Leave the flag out, or name the right directory.",
    ),
    "SP414": Diagnostic(
        "a model that cannot be split like that",
        "Layers, heads, experts or the vocabulary do not divide over the ranks, or two flags about it contradict.",
        "Choose other sizes; --num-layer-list and --noop-layers help where layers do not divide.",
    ),
    # 5xx: machine
    "SP501": Diagnostic("device not available", "The machine has no such device.", "Choose another --device."),
    "SP502": Diagnostic(
        "a package is missing",
        "Training and conversion need torch, data sets of the Hugging Face hub the package datasets, and stats --plot "
        "FILE.png pillow; preparing files needs none of them.",
        'pip install "seqpack-toolkit[train]", "seqpack-toolkit[npu]", "seqpack-toolkit[hub]" or '
        '"seqpack-toolkit[plot]"',
    ),
    "SP503": Diagnostic(
        "the output cannot be written",
        "The disk is full, a limit was reached, or the folder may not be written to. What was written so far was "
        "removed; nothing was published.",
        "Free some space, or choose another folder.",
    ),
    "SP504": Diagnostic(
        "the tokenizer engine is not installed",
        "--tokenizer-engine names a library that this Python does not have.",
        'pip install "seqpack-toolkit[fast]" brings fastokens, pip install gigatoken the other one; or leave the flag '
        "out: auto takes the fastest engine there is.",
    ),
    "SP505": Diagnostic(
        "a worker process died",
        "A process of --workers ended without a word, and so did the one that took over its shard: killed by the "
        "system for want of memory, by hand, or by a crash in native code. Nothing was published.",
        "Use fewer --workers if memory is short (each takes some hundred megabytes). Otherwise try --workers 1 on the "
        "named file; if that dies too, --tokenizer-engine tokenizers shows whether it is the engine.",
    ),
    "SP506": Diagnostic(
        "the solver is not installed",
        "--strategy optimal plans with the solver HiGHS, which is an extra: nothing else needs it.",
        'pip install "seqpack-toolkit[optimal]"; --strategy exact comes close on most data without a solver.',
    ),
    "SP509": Diagnostic(
        "Ray is not installed",
        "--ray hands the shards of the data to Ray, which is an extra: one machine, or srun and torchrun, need no Ray.",
        'pip install "seqpack-toolkit[ray]" here and on the machines of the cluster, which need seqpack as well.',
    ),
    "SP511": Diagnostic(
        "the software of the NPU cannot be loaded",
        "torch_npu is installed, and its libraries or those of CANN are missing, are of another version, or meet a "
        "torch that was built for CUDA.",
        "Set CANN up in this shell (source .../set_env.sh); torch, torch_npu and CANN have to fit together.",
    ),
    "SP512": Diagnostic(
        "the NPU reported an error",
        "An operator, the driver or the runtime failed. The message has the code that CANN documents.",
        "--traceback shows the whole message; ~/ascend/log has what CANN wrote.",
    ),
    "SP513": Diagnostic(
        "the device is out of memory",
        "Weights, gradients, optimizer state and activations of a micro-batch do not fit the memory of the device.",
        "A smaller --micro-batch-size, --recompute-granularity full, or more processes, which share the weights.",
    ),
    "SP514": Diagnostic(
        "no compiler for --compile",
        "torch compiles layers with a C++ compiler for the CPU and with triton for CUDA; this machine has none, or "
        "layers are not compiled for this kind of device.",
        "Install g++ or name another one in CXX, or train without --compile: results are the same.",
    ),
    # 6xx: several processes
    "SP601": Diagnostic(
        "the number of processes does not fit",
        "The degrees of parallelism multiply to the number of processes, and every rank is one of them.",
        "Start another number of processes, or change --dp-replicate, --cp, --tp, --pp or --ep.",
    ),
    "SP602": Diagnostic(
        "adapters are not trained in this layout yet",
        "Adapters are trained by data and context parallel processes so far, not by ones that share the model.",
        "Leave one of the flags out: data parallel processes hold a part of each weight, too.",
    ),
    "SP603": Diagnostic(
        "another process of the run failed",
        "One rank ended, so that the others could not go on; they were ended too.",
        "The message has its last lines, and SAVE/logs all of them. --resume goes on from the last checkpoint.",
    ),
    "SP604": Diagnostic(
        "ranks that share rows do not agree",
        "Ranks of --cp exchange tokens by a plan that each makes by itself from the boundaries of the row. Ranks with "
        "other rows or another plan would take each other's numbers for something else.",
        "Start all ranks with the same options, the same data and the same version of seqpack.",
    ),
    "SP605": Diagnostic(
        "context parallelism does not fit",
        "--ulysses-degree-in-cp has to divide --cp, and --cp-window-size the ranks of the ring; a group that exchanges "
        "heads has no more ranks than there are query heads.",
        "Leave the flag out: the default fits.",
    ),
    "SP610": Diagnostic(
        "the model cannot be shared out like this",
        "Heads, features, experts, layers or micro-batches do not divide among the processes that were asked for, or "
        "it is not known which weights of the family do what.",
        "Choose the degrees so that they divide what the message names.",
    ),
    "SP611": Diagnostic(
        "processes cannot reach each other",
        "GLOO_SOCKET_IFNAME or HCCL_SOCKET_IFNAME names a network interface that is not there, a rank ended or came "
        "too late, or something between the machines stops them.",
        "Name the interface that leads to the other machines, look at what the ranks before this one said, and raise "
        "HCCL_CONNECT_TIMEOUT if ranks take long to start.",
    ),
    "SP612": Diagnostic(
        "a rank stands still",
        "A rank gave no sign of life for half a minute, or all ranks have waited in one exchange each for long: in "
        "different ones, or for a rank that is gone.",
        "The message has the rank, its exchange and the line. --resume goes on from the last checkpoint.",
    ),
    "SP613": Diagnostic(
        "ranks were started differently",
        "Before the first step all ranks compare options, layout, data and versions by their digests. They do not "
        "agree, so that they would exchange numbers that mean different things.",
        "Start all ranks with the same command on the same files. The message names the rank and what differs.",
    ),
    "SP620": Diagnostic(
        "a machine does not know its place",
        "With several machines each is told how many there are, which one it is, and where machine 0 is.",
        "Give --nnodes, --node-rank and --master-addr, or let `seqpack launch` write the commands.",
    ),
    "SP622": Diagnostic(
        "--save is not on a shared disk",
        "A checkpoint is one directory that every process writes its part to. Written to several disks, none of them "
        "would have a whole one.",
        "Put --save on a disk that all machines see; or give --no-shared-storage, and no checkpoints are written.",
    ),
}
