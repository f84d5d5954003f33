#!/bin/sh
# Make polkupb/ again from the .proto files, whose folder is $1. Needs protoc and:
#   go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.6
#   go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.5.1
set -eu
package=polkupb
module=plugin.example/polku
files="polku/event/v1/event.proto polku/v1/plugin.proto"
options="module=$module"
for file in $files; do options="$options,M$file=$module/$package"; done
${PROTOC:-protoc} -I "$1" --go_out=. --go_opt="$options" --go-grpc_out=. --go-grpc_opt="$options" $files
