// What shared/web/wires/grpc_web.js uses of connect-web, and the messages of chat.proto.
export { toBinary } from "@bufbuild/protobuf";
export { Code, ConnectError, createClient } from "@connectrpc/connect";
export { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
export { ChatService, EventSchema } from "./gen/protocols/grpc/chat_pb.js";
export { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
