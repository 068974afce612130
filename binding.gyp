{
  "variables": {
    "unicorn": "<(module_root_dir)/.vendor/unicorn/usr",
  },
  "target_defaults": {
    "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17"],
    "cflags_cc": ["-std=c++20", "-O2", "-Wall", "-Wextra", "-Wno-missing-field-initializers", "-fvisibility=hidden"],
    "include_dirs": ["native"],
  },
  "targets": [
    {
      "target_name": "penumbra",
      "sources": ["<!@(find native -name '*.cc' ! -name '*_main.cc' ! -path 'native/test/*')"],
      "include_dirs": ["<(unicorn)/include", "node_modules/node-addon-api", "<(SHARED_INTERMEDIATE_DIR)"],
      "actions": [
        {
          "action_name": "batch_runner",
          "inputs": [
            "scripts/inshadow",
            "native/inshadow/batch_runner.c",
            "native/inshadow/batch_runner.h",
            "native/inshadow/flat.ld",
          ],
          "outputs": ["<(SHARED_INTERMEDIATE_DIR)/batch_runner_code.h"],
          "action": ["scripts/inshadow", "native/inshadow/batch_runner.c", "kBatchRunnerCode", "<@(_outputs)"],
        },
        {
          "action_name": "process_walk",
          "inputs": [
            "scripts/inshadow",
            "native/inshadow/process_walk.c",
            "native/inshadow/process_walk.h",
            "native/inshadow/batch_runner.h",
            "native/inshadow/flat.ld",
          ],
          "outputs": ["<(SHARED_INTERMEDIATE_DIR)/process_walk_code.h"],
          "action": ["scripts/inshadow", "native/inshadow/process_walk.c", "kProcessWalkCode", "<@(_outputs)"],
        },
      ],
      "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_CPP_EXCEPTIONS"],
      "libraries": [
        "<(unicorn)/lib/x86_64-linux-gnu/libunicorn.so.2",
        "-Wl,-rpath,'$$ORIGIN/../../.vendor/unicorn/usr/lib/x86_64-linux-gnu'",
      ],
    },
    {
      "target_name": "penumbra-watchdog",
      "type": "executable",
      "sources": ["native/process/watchdog_main.cc"],
    },
    {
      "target_name": "penumbra-launcher",
      "type": "executable",
      "sources": ["native/redirect/launcher_main.cc"],
    },
  ],
}
