// Tries the features of MCP against feature_server.py with version 1 of the TypeScript SDK, which is what most clients are
// made of and speaks the legacy era only. See features.mjs.
//
//     ts_legacy.mjs URL TOKEN legacy FEATURE|all
import { drive } from './features.mjs';
import { sdk } from './sdk_v1.mjs';

await drive(sdk);
