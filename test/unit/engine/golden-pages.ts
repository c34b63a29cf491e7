/** Pages as a PostgreSQL 15 server with checksums wrote them: deflated, base64. */
import { inflateSync } from 'node:zlib';

export type GoldenPage = { readonly name: string; readonly block: number; readonly page: () => Buffer };

const deflated = (text: string) => () => inflateSync(Buffer.from(text, 'base64'));

export const GOLDEN_PAGES: readonly GoldenPage[] = [
  {
    name: 'a heap page',
    block: 7,
    page: deflated(
      'eNp910dwlHUcxvGXABKsoS99qYa+KcBSxNBDaAEEQjWAYACF0EMRA6EsfelLD4gSpHewYkOOHnPMjJccc8yMHnzUZ3yfwzPu' +
        'zLM7s/OZ+R2+p3+DIAhSFX90erG5UfBnWqRhEG0UxV9B9aWC4C6WwIqxOJaB1V4sCJ5jKawUy8eiWP2FguA3rAorx4qwGJaO' +
        '1ZwvCJ5iSawEy8MiWN25guAlVomVYYVYJhZg1WdxH0tgxVgcy8Bqz+A+lsJKsXwsitWncB+rwsqxIiyGpWM1p3EfS2IlWB4W' +
        'wepO4T5WiZVhhVgmFmDVJ3EfS2DFWBzLwGpP4D6WwkqxfCyK1R/HfawKK8eKsBiWjtUcw30siZVgeVgEqzuK+1glVoYVYplY' +
        'gFUncR9LYMVYHMvAao/gPpbCSrF8LIrVH8Z9rAorx4qwGJaO1RzCfSyJlWB5WASrO4j7WCVWhhVimViAVR/AfSyBFWNxLAOr' +
        '3Y/7WAorxfKxKFa/D/exKqwcK8JiWDpWk8B9LImVYHlYBKvbi/tYJVaGFWKZWIBV78F9LIEVY3EsA6vdjftYCivF8rEoVr8L' +
        '97EqrBwrwmJYOlZTgftYEivB8rAI9n+f39P+/W38z3eT4FmQFqQ1jQQv8UeLtas3RbNy4zHjntL9GrrBQ4x7QvdCXNy4x3S/' +
        'iBts3CO6n8UNMu4h3U/iBhr3gO5HcbnG3af7QVyOcffonovLNu4u3ffisoy7Q/edONfjNt23oRvketyi+0ac63GT7mtxrscN' +
        'uq/EuR5f0j0T53pcp3sqzvWoonsizvW4RvdYnOvxBd0jca7H53QPxbkeV+kehG6g6/EZ3X1xrscVunviXI/LdHfFuR6VdHfE' +
        'uR6X6G6Lcz0u0t0S53pcoLspzvU4T3dDnOtxju5Lca7HWbrroct1Pc7QVYlzPVJ018S5HqfpvhDnepyi+1yc63GS7qo41+ME' +
        '3WfiXI/jdFfEuR7H6C6Lcz2O0lWKcz2SdJdCl+N6HKG7KM71OEx3QZzrcYjuvDjX4yDdOXGuxwG6s+Jcj/10Z8S5HvvoUuJc' +
        'jwTdaXGux166U+Jcjz10J0OX7XrspjshzvXYRXdcnOtRQXdMnOuxk+6oONdjB11SnOtRTndEnOvxKd1hca7HdrpD4lyPT+gO' +
        'inM9ttEdCF2W67GVbr8412ML3T5xrsdmuoQ416OMbq8412MT3R5xrsdGut3iXI8NdLvEuR7r6SrEuR7r6HaKcz3W0u0IXcz1' +
        'WENXLs71KKX7VJzrsZpuuzjXYxXdJ+Jcj4/ptolzPT6i2yrO9VhJt0Wc67GCbrM412M5XZk416OEbtN/LmeI6/Eh3UZxrscy' +
        'ug3iXI+ldOvFuR4f0K0T53osoVsrzvVYTLdGnOuxiK5UnOtRTLdanOvxPt0qca7HQrqPQxd3PRbQfSTO9ZhPt1Kc6zGPboU4' +
        '12Mu3XJxrsccuhJxrkcR3YfiXI/ZdMvEuR6z6JaKcz1m0n0gzvV4j25J6Oz7fAbdYnGux3S6ReJcj2l0xeJcj0K698W5HlPp' +
        'FopzPabQLRDnekymmy/O9ZhEN0+c6zGRbq4416OAbk7o7Pt8Al2RONcjn262ONdjPN0sca7HOLqZ4lyPsXTviXM9xtDNEOd6' +
        'jKabLs71GEU3TZzrMZKuUJzrkUc3NXT2ff4u3RRxrscIusniXI936CaJcz2G000U53oMoysQ53oMpZsgzvUYQpcvzvWI040X' +
        '53oMphsnzvUYRDc2dPZ9PpBujDjXI5dutDjXI4dulDjXI5tupDjXI4suT5zrEaN7V5zrMYBuhDjXoz/dO+Jcj350w8W5Hn3p' +
        'hoXOvs/70A0V53r0phsizvXoRRcX53pk0g0W53q8TTdInOvRk26gONejB12uONejO12OONejG122ONejK11W6Oz7vAtdTJzr' +
        'EaUbIM716EzXX5zr0YmunzjXoyNdX3GuRwe6PuJcj/Z0vcW5Hu3oeolzPdrSZYpzPSJ0b4fOvs/b0PUU53q0pushzvVoRddd' +
        'nOvRkq6bONejBV1Xca5Hc7ou4lyPZnRRca5HBl1nca7HW3SdxLkeb9J1DJ19n79B10Gc6/E6XXtxrsdrdO3EuR6v0rUV53o0' +
        'pYuIcz3S6dqIcz2a0LUW53q8QtdKnOvRmK6lONejEV2L/1y2fZ83pGsuzvVIo2smzvVoQJch7u8efwG/zgyA',
    ),
  },
  {
    name: 'a b-tree page',
    block: 3,
    page: deflated(
      'eNrtyiEOwkAQRuFp2dKlmJ6AruMSCDx3QNcRHEeoJiHB1XKEcgOOgMEj8RimEybhDrwv+ZN9k81EZL19L46dyEra5tWEpCd5' +
        '9rXc+yQ33aC76M66TnfQtd8BAAAAAAAAAAAAAPBfKsmkTvu598x6UnlH61P0Lq2XpffU+lp4F9ab4B2sH7l3br3LvMdHTL81' +
        'fv0AZd0YFg==',
    ),
  },
  {
    name: 'a free space map page',
    block: 0,
    page: deflated(
      'eNrt1bEJgEAMBdAvOISV3Cpun0luCRsRtNBKCwvhvSaE4wghhAxJqq/z0pMpaWljy6EqtYczzdU9z8v3fPw/P68f/WP+gP0H' +
        'ANx/AAAA4KkNaCAOlA==',
    ),
  },
  {
    name: 'a visibility map page',
    block: 0,
    page: deflated('eNrtyDENwCAUBcBHgohOzTeFJOR1r4zuXcAGyd14Lck7//v5kiupVK9dGVsLAAAAAAAAAHCCBYX5BgY='),
  },
  {
    name: 'a page of the catalog',
    block: 2,
    page: deflated(
      'eNrN2FlPE1EUB/C5gCCgpe7I1mHfZTptpy2goOwkYDWooy9ghBhesImY+Fj3Xaso7stH8CP4AXgwPvmgiR/Bdx/wUA4y87cm' +
        'hHsTp8mh0OTM/PLnzJ3b0TRN+6pfEgW/8rQlzS80PU+nj7TEe1t8eGeLn29t0UuVfmOLH69tYVClXtni80tb6FTJF7b49NwW' +
        'fqqpRVt8fGYLjSrxlPoXqP8J9VOlH1N/mvqpUo+o/yH1UyUfUP996qeaukf9d6mfKnGH+m9T/y3qp0rfpP4b1E+Vuk7916if' +
        'KnmV+q9QP5Wm4LV2kMHMzxytXavWRKG+vLzck/nklF/Tkucn5y+cvTg/aQUNYxPnOOf4vShzltVXKj+LRyTnc//8MZd5W8pZ' +
        'd669D7C3DbwnSt1ea3J2bnrmspR3Qawe13n+9VdyNge82fLtZ28reCfQqyjfidJ//b83lm8fe1vAO+ich1AoYijKd+W4Mvke' +
        'YW8zeAfQqyjfAb9cvofZ2wTeGdc8mOGQonzXrre/8hUby7eXvY3gnUavR9aHHvY2gFd3ekPhiKr1QZdcHw6xtx68AfQqyjcg' +
        'uT4cZG8deL+XOL2RuOmR+e1mby14v6HXI/Pbxd4a8Jb43F5V87tyXJn57WRvNXh96FWUr88nN79x9urg7XbfL+JhRfl2S97f' +
        'YuwNgLcLvYry7ZK8v0XZWwVew+mNmZsZ36z5GpL5WuytBG8HeDVF+XZI5hthbwV4T7r264ZheGT9DbO3HPfr6PXI+htibxl4' +
        'h13Xm6ls/zAsOb8me/eDdwi9ivIdkpzfIHtLwdvp8gaDMUX5dkrma7B3H3jj6FWUb1wy3w727gXvuNMbDCvLd1wy3wPs3QPe' +
        'MfQqyndMMt929u4Gbwy8UUX5xiTzbWPvLvBG0aso36hkvq3s3Qley+k1Q6aq+bUk821h7w7wRtCrKN+IZL7N7PWDN+xaz4xo' +
        'XFG+Ycl8m9hbAt4QehXlG5LMt5G9PvCOuryWsv3ZqGS+DezdDt4R9CrKd0Qy33r2bsPnJcWu603Z92PZ/W8de4vBW4Vej+x/' +
        'a9lbBN6E635hWl75flHD3kLwHkWvR/KtZu9W8J5xe4Neef6rs7cAvKfR65F8A+zNB+9z1/UWt8IeybeKvVvAu4hej+Rbyd48' +
        '8B6H680rz38r2JsL3mPo/Q/5fsmSbzl7c8Db79pPWsGIonz7JfcPZewV4O1Dr6J8+za5f/gNtoV/9Q==',
    ),
  },
];
